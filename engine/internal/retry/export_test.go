package retry

import "time"

// Stopped changes an Activity as if the process had been stopped for d.
func Stopped(p *Activity, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen, p.first = p.seen.Add(-d), p.first.Add(-d)
}
