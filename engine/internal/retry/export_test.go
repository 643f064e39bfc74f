package retry

import "time"

// Stopped makes a pulse as it is after the process was stopped for a while.
func Stopped(p *Pulse, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.first = p.seen.Add(-d), p.first.Add(-d)
}
