package conns

import (
	"net/netip"
	"sync"
	"time"

	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/refusal"
)

const (
	// Requests by HTTP/2, of which a connection may have some. In HTTP/1 each has a connection, and
	// there are bounds for those.
	mostStreams       = 4096
	mostStreamsOfOne  = 512
	mostStreamsOfConn = 32
	mostHTTP2         = 1024 // connections: of a connection, net/http itself may have as many streams to answer as it has
	mostHTTP2OfOne    = 64
	mostResets        = 64 // of a connection, beyond the answers that it took whole
)

// Stream is a request in HTTP/2. Its client can hold the answer back by windows, while nothing is
// written to the connection (RFC 9113, section 5.2): it has to take it as fast as in HTTP/1.
type Stream struct {
	from  client.Address
	conn  *Conn         // nil where it isn't known
	write time.Duration // in which the client takes a piece
	reset func()        // ends the answer, but not the connection

	mu    sync.Mutex
	timer *time.Timer
	since time.Time // when what is being written was begun; zero is that nothing is
	base  int64     // what the client had taken then, of all answers over the connection
}

// NewStream is a request in HTTP/2 of a client, over a connection, nil where it isn't known. The client
// has the time write to take a Piece; reset ends the answer, but not the connection.
func NewStream(from client.Address, conn *Conn, write time.Duration, reset func()) *Stream {
	return &Stream{from: from, conn: conn, write: write, reset: reset}
}

// Piece is how much is written at once where it is watched how a client takes it.
const Piece = least

// Begin notes that something is being written, which the client has to take in time.
func (s *Stream) Begin() {
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

// End notes that so many bytes were written.
func (s *Stream) End(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.since = time.Time{}
	if s.conn != nil {
		s.conn.took.Add(int64(n))
	}
}

// late ends the answer, and the connection as well unless its client takes other answers.
func (s *Stream) late() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.since.IsZero() || time.Since(s.since) < s.write: // it was taken just now
	case s.conn == nil:
		s.reset()
	case s.conn.took.Load()-s.base < least:
		s.conn.Cut(tooSlow)
	default:
		s.conn.places.refusals.Note(refusal.Refusal{Why: "slow", From: s.from})
		s.reset()
	}
}

// stalled reports whether the client takes hardly anything of an answer, and whether it takes hardly
// anything of any other over the connection either.
func (s *Stream) stalled(now time.Time) (one, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tick := s.write / ticks
	waits := now.Sub(s.since)
	if s.since.IsZero() || waits <= Piece/slowly*tick {
		return false, false
	}
	return true, s.conn != nil && s.conn.took.Load()-s.base < slowly*int64(waits/tick)
}

// giveWay ends the answer for another one.
func (s *Stream) giveWay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.since.IsZero() {
		s.reset()
	}
}

// StreamLimits are those that are under way. When an address, or when all have as many as they may, one
// whose client takes hardly anything gives way to a new one: of the same address, or of one that
// has many times as many. Besides, addresses that have few find some room.
type StreamLimits struct {
	most, mostOfOne int
	refusals        *refusal.Log
	refused         *client.Counts // those that are being refused

	mu     sync.Mutex
	all    int
	of     map[netip.Prefix]map[*Stream]struct{}
	looked time.Time // when none was found that gives way
}

// NewStreamLimits begins with none. refused notes which give way; nil notes none.
func NewStreamLimits(refused *refusal.Log) *StreamLimits {
	return &StreamLimits{most: mostStreams, mostOfOne: mostStreamsOfOne, refusals: refused, refused: client.NewCounts(mostStreams, mostStreamsOfOne), of: make(map[netip.Prefix]map[*Stream]struct{})}
}

// EnterRefused reports whether there is room for one that is being refused. LeaveRefused must follow.
func (s *StreamLimits) EnterRefused(from client.Address) bool { return s.refused.Enter(from) }

// LeaveRefused gives back what EnterRefused has taken.
func (s *StreamLimits) LeaveRefused(from client.Address) { s.refused.Leave(from) }

// Enter reports whether there is room for one.
func (s *StreamLimits) Enter(x *Stream) bool {
	const few, part = 8, 8
	now := time.Now()
	s.mu.Lock()
	mine := len(s.of[x.from.Network])
	var victim *Stream
	room := true
	switch {
	case x.from.Known() && mine >= s.mostOfOne:
		victim, _ = oldest(s.of[x.from.Network], now)
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
		victim.conn.Cut(gaveWay)
	default:
		s.refusals.Note(refusal.Refusal{Why: "gave-way", From: victim.from})
		victim.giveWay()
	}
	return room
}

// givesWay is the stream that gives way to one of an address that has so many, nil for none. The
// caller holds s.mu.
func (s *StreamLimits) givesWay(mine int, now time.Time) (victim *Stream) {
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
func oldest(all map[*Stream]struct{}, now time.Time) (victim *Stream, since time.Time) {
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
func (s *StreamLimits) drop(victim *Stream, now time.Time) (whole bool) {
	if _, all := victim.stalled(now); !all {
		s.remove(victim)
		return false
	}
	for x := range s.of[victim.from.Network] {
		if x.conn == victim.conn {
			s.remove(x)
		}
	}
	return true
}

func (s *StreamLimits) add(x *Stream) {
	all := s.of[x.from.Network]
	if all == nil {
		all = make(map[*Stream]struct{})
		s.of[x.from.Network] = all
	}
	all[x] = struct{}{}
	s.all++
	if x.conn != nil {
		x.conn.streams.Store(x, nil)
	}
}

func (s *StreamLimits) remove(x *Stream) {
	all := s.of[x.from.Network]
	if _, here := all[x]; !here {
		return
	}
	delete(all, x)
	if len(all) == 0 {
		delete(s.of, x.from.Network)
	}
	s.all--
	if x.conn != nil {
		x.conn.streams.Delete(x)
	}
}

// Leave gives back what Enter has taken.
func (s *StreamLimits) Leave(x *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(x)
}
