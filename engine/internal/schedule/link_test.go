package schedule_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/schedule"
)

// link is a simulated network to one host, in the time of synctest: a rate for all connections
// together and for each, a round trip, TCP's slow start, and a server that works on so many
// requests at a time.
type link struct {
	rate, perConn float64 // bytes a second
	trip          time.Duration
	places        int           // requests that the server works on at once; 0: any number
	work          time.Duration // that it needs for one

	mu      sync.Mutex
	idle    []*conn
	now     int // bodies under way
	most    int
	working int
	queue   []chan struct{}
}

// conn is a connection; window is TCP's.
type conn struct{ window float64 }

func (l *link) connect() *conn {
	l.mu.Lock()
	if n := len(l.idle); n > 0 {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		return c
	}
	l.mu.Unlock()
	time.Sleep(l.trip)
	return &conn{window: 14600}
}

// request waits for the first byte of an answer.
func (l *link) request() {
	time.Sleep(l.trip)
	l.mu.Lock()
	if l.places > 0 && l.working >= l.places {
		ready := make(chan struct{})
		l.queue = append(l.queue, ready)
		l.mu.Unlock()
		<-ready
		l.mu.Lock()
	} else {
		l.working++
	}
	l.mu.Unlock()
	time.Sleep(l.work)
}

func (l *link) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) > 0 {
		close(l.queue[0])
		l.queue = l.queue[1:]
		return
	}
	l.working--
}

// body is a blob on its way, by one connection or several.
type body struct {
	l    *link
	q    *schedule.Queue
	mu   sync.Mutex
	left float64
}

func (b *body) Rest() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 2<<20 {
		return 0
	}
	return int64(b.left / 2)
}

// fetch takes of what is left by one connection.
func (b *body) fetch(ctx context.Context, most float64, stop func() bool) {
	l := b.l
	c := l.connect()
	l.request()
	defer l.answered()
	l.mu.Lock()
	l.now++
	l.most = max(l.most, l.now)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.now--
		l.idle = append(l.idle, c)
	}()
	for most > 0 && ctx.Err() == nil {
		l.mu.Lock()
		share := l.rate / float64(max(1, l.now))
		l.mu.Unlock()
		rate := min(share, l.perConn, c.window/l.trip.Seconds())
		b.mu.Lock()
		want := min(b.left, most)
		if want <= 0 {
			b.mu.Unlock()
			return
		}
		tick := min(max(l.trip/4, time.Millisecond), 50*time.Millisecond)
		n := min(want, rate*tick.Seconds())
		b.left -= n
		b.mu.Unlock()
		time.Sleep(time.Duration(n / rate * float64(time.Second)))
		c.window += n
		most -= n
		if b.q != nil {
			b.q.Arrived("h", int64(n))
		}
		if stop() {
			return
		}
	}
}

func (b *body) Help(ctx context.Context, surplus func() bool) error {
	for first := true; !surplus() && b.Rest() > 0; first = false {
		once := sync.OnceFunc(func() { b.q.Ranged("h") })
		piece := max(1<<20, float64(b.Rest())/4)
		b.fetch(ctx, piece, func() bool {
			if first {
				once()
			}
			return false
		})
	}
	return nil
}

// image is a manifest and its blobs.
type image []float64

// pull is how long the images take by a queue.
func (l *link) pull(t *testing.T, limits schedule.Limits, images []image) time.Duration {
	return l.pullWith(t, limits, images, func(*schedule.Queue) {}, func(*schedule.Queue) {})
}

// pullWith is pull, and calls begin and end with the queue.
func (l *link) pullWith(t *testing.T, limits schedule.Limits, images []image, begin, end func(*schedule.Queue)) (took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		l.idle, l.now, l.most, l.working, l.queue = nil, 0, 0, 0, nil
		start := time.Now()
		var queue *schedule.Queue
		err := schedule.Run(t.Context(), limits, func(q *schedule.Queue) error {
			queue = q
			begin(q)
			for _, img := range images {
				q.Add(schedule.Job{Host: "h", Kind: schedule.Small, Run: func(ctx context.Context, p *schedule.Slot) error {
					(&body{l: l, left: 2000}).fetch(ctx, math.Inf(1), func() bool { p.Answered(); return false })
					for _, size := range img {
						q.Add(schedule.Job{Host: "h", Cost: int64(size), Run: func(ctx context.Context, p *schedule.Slot) error {
							b := &body{l: l, q: q, left: size}
							p.Share(b)
							b.fetch(ctx, math.Inf(1), func() bool { p.Answered(); return false })
							p.Share(nil)
							return nil
						}})
					}
					return nil
				}})
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		took = time.Since(start)
		end(queue)
	})
	return took
}

// loads are what is pulled over simulated links.
func loads() map[string][]image {
	random := rand.New(rand.NewPCG(1, 2))
	var many []image // of four blobs of 2 kB to 5 MB each
	for range 60 {
		var img image
		for range 4 {
			img = append(img, 2e3*math.Pow(5e6/2e3, random.Float64()))
		}
		many = append(many, img)
	}
	var small, eight image
	for range 100 {
		small = append(small, 64<<10)
	}
	for i := range 8 {
		eight = append(eight, float64(10+5*i)*1e6)
	}
	return map[string][]image{"60 images": many, "100 small layers": {small}, "8 layers": {eight}, "one layer": {{200e6}}}
}

// The width that is found is worth about as much as the best that could have been given, which nobody
// knows beforehand: on any link, for any load, and where the server works on few requests at a time.
func TestWidthsAreFound(t *testing.T) {
	const mb = 1e6
	for _, c := range []struct {
		trip          time.Duration
		rate, perConn float64
		places        int
		least         float64 // of the best
	}{
		{100 * time.Microsecond, 100 * mb, 1250 * mb, 0, 0.85},
		{2 * time.Millisecond, 12 * mb, 1250 * mb, 0, 0.85},
		{40 * time.Millisecond, 100 * mb, 12 * mb, 0, 0.7},
		{100 * time.Millisecond, 12 * mb, 12 * mb, 0, 0.7},
		{100 * time.Millisecond, 1250 * mb, 12 * mb, 0, 0.65},
		{300 * time.Millisecond, 100 * mb, 1250 * mb, 0, 0.65},
		{40 * time.Millisecond, 12 * mb, 1250 * mb, 4, 0.55},
		{100 * time.Millisecond, 100 * mb, 12 * mb, 4, 0.45},
	} {
		if testing.Short() && c.trip < 100*time.Millisecond { // many small steps
			continue
		}
		for name, images := range loads() {
			l := &link{rate: c.rate, perConn: c.perConn, trip: c.trip, places: c.places, work: 200 * time.Microsecond}
			best, at := time.Duration(math.MaxInt64), 0
			for _, w := range []int{1, 4, 8, 16, 32, 64} {
				if took := l.pull(t, schedule.Limits{Jobs: w, PerHost: w}, images); took < best {
					best, at = took, w
				}
			}
			took := l.pull(t, schedule.Limits{}, images)
			what := fmt.Sprintf("%s, %v, %.0f MB/s, %.0f a connection, server's places %d", name, c.trip, c.rate/mb, c.perConn/mb, c.places)
			ratio := best.Seconds() / took.Seconds()
			t.Logf("%s: %v with up to %d connections, %v with %d: %.2f", what, took, l.most, best, at, ratio)
			if ratio < c.least {
				t.Errorf("%s: %v, where %d connections take %v: %.2f, want %.2f", what, took, at, best, ratio, c.least)
			}
		}
	}
}

// What was found is where a later run begins.
func TestWidthsAreRemembered(t *testing.T) {
	l := &link{rate: 100e6, perConn: 12e6, trip: 100 * time.Millisecond}
	small := loads()["100 small layers"]
	var found schedule.Findings
	first := l.pullWith(t, schedule.Limits{}, small, func(*schedule.Queue) {}, func(q *schedule.Queue) { found = q.Learned()["h"] })
	if found.Width <= 8 || found.Width > 64 {
		t.Fatalf("found %+v", found)
	}
	again := l.pullWith(t, schedule.Limits{}, small, func(q *schedule.Queue) { q.Learn("h", found) }, func(*schedule.Queue) {})
	if again >= first {
		t.Errorf("%v, and %v again", first, again)
	}
}

// What is never tried isn't found: here --jobs holds the host below its width.
func TestWidthsAreNotFoundWhereOthersHold(t *testing.T) {
	l := &link{rate: 100e6, perConn: 12e6, trip: 100 * time.Millisecond}
	l.pullWith(t, schedule.Limits{Jobs: 4}, loads()["60 images"], func(*schedule.Queue) {}, func(q *schedule.Queue) {
		if found := q.Learned()["h"]; found.Width > 0 || l.most > 4 {
			t.Errorf("found %+v, with %d connections", found, l.most)
		}
	})
}

// Jobs that ask nobody, for what they need is there, tell nothing of the host.
func TestJobsWithoutAnAnswerTellNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gauge
		err := schedule.Run(t.Context(), schedule.Limits{}, func(q *schedule.Queue) error {
			for i := range 1000 {
				q.Add(schedule.Job{Host: "h", Kind: schedule.Small, Run: func(_ context.Context, p *schedule.Slot) error {
					if i%2 == 0 { // it is there
						return nil
					}
					g.add("h", 1)
					time.Sleep(100 * time.Millisecond)
					p.Answered()
					g.add("h", -1)
					return nil
				}})
			}
			return nil
		})
		if err != nil || g.most["h"] != 64 {
			t.Errorf("%d at once, want 64; %v", g.most["h"], err)
		}
	})
}

// An overloaded host is left with fewer, and that is remembered.
func TestTroubleReducesWidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var queue *schedule.Queue
		err := schedule.Run(t.Context(), schedule.Limits{}, func(q *schedule.Queue) error {
			queue = q
			now := 0
			var mu sync.Mutex
			add := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				now += n
				return now
			}
			for range 1000 {
				q.Add(schedule.Job{Host: "h", Run: func(_ context.Context, p *schedule.Slot) error {
					const most = 20
					if add(1) > most { // 429
						q.Trouble("h", true)
					}
					time.Sleep(100 * time.Millisecond)
					p.Answered()
					q.Arrived("h", 1000)
					add(-1)
					return nil
				}})
			}
			return nil
		})
		if found := queue.Learned()["h"]; err != nil || found.Width < 4 || found.Width > 24 {
			t.Errorf("found %+v; %v", found, err)
		}
	})
}
