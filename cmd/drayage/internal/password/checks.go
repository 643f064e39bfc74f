package password

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/limits"
)

// checks has checks of passwords wait until they can be worked out: few are at a time, so that the
// networks that wait have turns one after the other, however many checks of each there are. Only
// passwords that were found to be wrong are taken from what a network may guess.
type checks struct {
	most  int             // that are worked out at once
	wrong *client.Buckets // by networks

	mu      sync.Mutex
	running int
	waiting int
	of      map[netip.Prefix]*line
	queue   []*line // those that wait, the next first
}

// line are the checks of one network; of the zero prefix, those of clients that have none.
type line struct {
	network netip.Prefix
	running int
	waiting []*waiter
}

// waiter is a check that waits for its turn. That is given once, or refused by an error.
type waiter struct {
	line  *line
	given chan error
}

func newChecks(most int, wrong *client.Buckets) *checks {
	return &checks{most: most, wrong: wrong, of: make(map[netip.Prefix]*line)}
}

// enter waits until a check of a network has its turn, which leave ends. Errors are waitErrors.
func (t *checks) enter(ctx context.Context, network netip.Prefix) error {
	mine, err := t.join(network)
	if err != nil {
		return err
	}
	select {
	case err := <-mine.given:
		return err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case err := <-mine.given: // just now
		return err
	default:
	}
	t.drop(mine)
	return WaitError{ErrBusy, time.Second}
}

// join puts a check at the end of its network's line.
func (t *checks) join(network netip.Prefix) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.of[network]
	if l == nil {
		l = &line{network: network}
	}
	if wait := t.guesses(l); wait > 0 && l.running == 0 {
		return nil, WaitError{ErrGuesses, wait}
	}
	if network.IsValid() && len(l.waiting) >= limits.PasswordChecksPerNetwork {
		return nil, WaitError{ErrBusy, time.Second}
	}
	if t.waiting >= limits.PasswordChecks { // the longest line gives way
		longest := slices.MaxFunc(t.queue, func(a, b *line) int { return len(a.waiting) - len(b.waiting) })
		if len(longest.waiting) <= len(l.waiting)+1 {
			return nil, WaitError{ErrBusy, time.Second}
		}
		last := longest.waiting[len(longest.waiting)-1]
		t.drop(last)
		last.given <- WaitError{ErrBusy, time.Second}
	}
	mine := &waiter{line: l, given: make(chan error, 1)}
	if t.of[network] = l; len(l.waiting) == 0 {
		t.queue = append(t.queue, l)
	}
	l.waiting = append(l.waiting, mine)
	t.waiting++
	t.next()
	return mine, nil
}

// leave ends a turn. A password that was wrong is taken from what its network may guess.
func (t *checks) leave(network netip.Prefix, good bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.of[network]
	t.running--
	l.running--
	if network.IsValid() && !good {
		t.wrong.Spend(network, time.Now())
	}
	t.forget(l)
	t.next()
}

// guesses is how long it will be until a network may guess again, were all its checks under way
// wrong.
func (t *checks) guesses(l *line) time.Duration {
	if !l.network.IsValid() {
		return 0
	}
	return t.wrong.Until(l.network, l.running+1, time.Now())
}

// next gives turns while there are some. The caller holds t.mu.
func (t *checks) next() {
	for held := 0; t.running < t.most && held < len(t.queue); {
		l := t.queue[0]
		t.queue = t.queue[1:]
		switch wait := t.guesses(l); {
		case wait == 0:
			held = 0
			l.running++
			t.running++
			t.waiting--
			first := l.waiting[0]
			l.waiting = l.waiting[1:]
			first.given <- nil
		case l.running > 0: // what is under way may turn out right
			held++
		default:
			held = 0
			t.waiting -= len(l.waiting)
			for _, w := range l.waiting {
				w.given <- WaitError{ErrGuesses, wait}
			}
			l.waiting = nil
		}
		if len(l.waiting) > 0 {
			t.queue = append(t.queue, l)
		}
		t.forget(l)
	}
}

// drop takes a check that waits out of its line. The caller holds t.mu.
func (t *checks) drop(w *waiter) {
	l := w.line
	l.waiting = slices.DeleteFunc(l.waiting, func(x *waiter) bool { return x == w })
	t.waiting--
	if len(l.waiting) == 0 {
		t.queue = slices.DeleteFunc(t.queue, func(x *line) bool { return x == l })
	}
	t.forget(l)
}

func (t *checks) forget(l *line) {
	if l.running == 0 && len(l.waiting) == 0 && t.of[l.network] == l {
		delete(t.of, l.network)
	}
}
