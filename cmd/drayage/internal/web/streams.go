package web

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"drayage/engine/mirror"
)

const (
	// Answers that go on for as long as a client reads them, and for how long each does. A page that
	// shows one begins another.
	mostEvents      = 128
	mostEventsOfOne = 16
	longestEvents   = 10 * time.Minute
	// Requests by HTTP/2, of which a connection may have some. In HTTP/1 each has a connection, and
	// there are bounds for those.
	mostStreams       = 4096
	mostStreamsOfOne  = 512
	mostStreamsOfConn = 32
	mostHTTP2         = 1024 // connections: of a connection, net/http itself may have as many streams to answer as it has
	mostHTTP2OfOne    = 64
	mostResets        = 64 // of a connection, beyond the answers that it took whole
)

// counts bounds what is under way, in all and of one network.
type counts struct {
	most, mostOfOne int

	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int
}

func newCounts(most, mostOfOne int) *counts {
	return &counts{most: most, mostOfOne: mostOfOne, of: make(map[netip.Prefix]int)}
}

func (s *counts) enter(from source) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.most || from.known() && s.of[from.network] >= s.mostOfOne {
		return false
	}
	s.all++
	s.of[from.network]++
	return true
}

func (s *counts) leave(from source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	fewer(s.of, from.network)
}

// boundEvents is events for a while, if there aren't too many.
func (s *site) boundEvents(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r.Context())
	if !s.shown.enter(v.from) {
		mirror.Fail(w, v.refuse(w, "events", http.StatusServiceUnavailable, "UNAVAILABLE", "too many pages show the transfers", time.Minute))
		return
	}
	defer s.shown.leave(v.from)
	ctx, cancel := context.WithTimeout(r.Context(), longestEvents)
	defer cancel()
	s.events(w, r.WithContext(ctx))
}

// stream is a request in HTTP/2. Its client can hold the answer back by windows, while nothing is
// written to the connection (RFC 9113, section 5.2): it has to take it as fast as in HTTP/1.
type stream struct {
	from  source
	conn  *conn         // nil where it isn't known
	write time.Duration // in which the client takes a piece
	reset func()        // ends the answer, but not the connection

	mu    sync.Mutex
	timer *time.Timer
	since time.Time // when what is being written was begun; zero is that nothing is
	base  int64     // what the client had taken then, of all answers over the connection
}

// piece is how much is written at once where it is watched how a client takes it.
const piece = least

func (s *stream) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	if s.conn != nil {
		s.base = s.conn.took.Load()
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(s.write, s.late)
	} else {
		s.timer.Reset(s.write)
	}
}

func (s *stream) end(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.since = time.Time{}
	if s.conn != nil {
		s.conn.took.Add(int64(n))
	}
}

// late ends the answer, and the connection as well unless its client takes other answers.
func (s *stream) late() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.since.IsZero() || time.Since(s.since) < s.write: // it was taken just now
	case s.conn == nil:
		s.reset()
	case s.conn.took.Load()-s.base < least:
		s.conn.cut(tooSlow)
	default:
		s.conn.places.refusals.note(refusal{why: "slow", from: s.from})
		s.reset()
	}
}

// stalled reports whether the client takes hardly anything of an answer, and whether it takes hardly
// anything of any other over the connection either.
func (s *stream) stalled(now time.Time) (one, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tick := s.write / ticks
	waits := now.Sub(s.since)
	if s.since.IsZero() || waits <= piece/slowly*tick {
		return false, false
	}
	return true, s.conn != nil && s.conn.took.Load()-s.base < slowly*int64(waits/tick)
}

// giveWay ends the answer for another one.
func (s *stream) giveWay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.since.IsZero() {
		s.reset()
	}
}

// streams are those that are under way. When an address, or when all have as many as they may, one
// whose client takes hardly anything gives way to a new one: of the same address, or of one that
// has many times as many. Besides, addresses that have few find some room.
type streams struct {
	most, mostOfOne int
	refusals        *Refusals

	mu     sync.Mutex
	all    int
	of     map[netip.Prefix]map[*stream]struct{}
	looked time.Time // when none was found that gives way
}

func newStreams(most, mostOfOne int, r *Refusals) *streams {
	return &streams{most: most, mostOfOne: mostOfOne, refusals: r, of: make(map[netip.Prefix]map[*stream]struct{})}
}

// enter reports whether there is room for one.
func (s *streams) enter(x *stream) bool {
	const few, part = 8, 8
	now := time.Now()
	s.mu.Lock()
	mine := len(s.of[x.from.network])
	var victim *stream
	room := true
	switch {
	case x.from.known() && mine >= s.mostOfOne:
		victim, _ = oldest(s.of[x.from.network], now)
		room = victim != nil
	case s.all < s.most || mine < few && s.all < s.most+s.most/part:
	default:
		victim = s.givesWay(mine, now)
		room = victim != nil
	}
	whole := false // the connection goes
	if victim != nil {
		whole = s.drop(victim, now)
	}
	if room {
		s.add(x)
	}
	s.mu.Unlock()
	switch {
	case victim == nil:
	case whole:
		victim.conn.cut(gaveWay)
	default:
		s.refusals.note(refusal{why: "gave-way", from: victim.from})
		victim.giveWay()
	}
	return room
}

// givesWay is the stream that gives way to one of an address that has so many, nil for none. The
// caller holds s.mu.
func (s *streams) givesWay(mine int, now time.Time) (victim *stream) {
	const many, often = 4, 10 * time.Millisecond // it looks at all of them
	if now.Sub(s.looked) < often {
		return nil
	}
	most := 0
	for _, all := range s.of {
		if has := len(all); has >= many*(mine+1) && has > most {
			if x, _ := oldest(all, now); x != nil {
				victim, most = x, has
			}
		}
	}
	if victim == nil {
		s.looked = now
	}
	return victim
}

// oldest is the stream whose client has taken hardly anything for longest, nil for none.
func oldest(all map[*stream]struct{}, now time.Time) (victim *stream, since time.Time) {
	for x := range all {
		if one, _ := x.stalled(now); !one {
			continue
		}
		x.mu.Lock()
		if victim == nil || x.since.Before(since) {
			victim, since = x, x.since
		}
		x.mu.Unlock()
	}
	return victim, since
}

// drop forgets a stream, and all others of its connection when the client takes hardly anything of
// them either, which it reports. The caller holds s.mu.
func (s *streams) drop(victim *stream, now time.Time) (whole bool) {
	if _, all := victim.stalled(now); !all {
		s.remove(victim)
		return false
	}
	for x := range s.of[victim.from.network] {
		if x.conn == victim.conn {
			s.remove(x)
		}
	}
	return true
}

func (s *streams) add(x *stream) {
	all := s.of[x.from.network]
	if all == nil {
		all = make(map[*stream]struct{})
		s.of[x.from.network] = all
	}
	all[x] = struct{}{}
	s.all++
	if x.conn != nil {
		x.conn.streams.Store(x, nil)
	}
}

func (s *streams) remove(x *stream) {
	all := s.of[x.from.network]
	if _, here := all[x]; !here {
		return
	}
	delete(all, x)
	if len(all) == 0 {
		delete(s.of, x.from.network)
	}
	s.all--
	if x.conn != nil {
		x.conn.streams.Delete(x)
	}
}

func (s *streams) leave(x *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(x)
}
