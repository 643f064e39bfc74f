package warm

import "time"

// SetClock gives a Runner another clock than the system's.
func (r *Runner) SetClock(now func() time.Time) { r.now = now }

// For this package's tests.
const (
	Unbound = unbound
	Off     = off
)
