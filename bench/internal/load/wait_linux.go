package load

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// preciseUntil waits until a time, or until ctx is done. The last stretch is the
// kernel's own sleep, which is accurate to some 10 µs; the timers of Go's runtime
// have the resolution of its poller, a millisecond.
func preciseUntil(ctx context.Context, at time.Time) {
	const coarse, fine = 5 * time.Millisecond, 3 * time.Millisecond
	if wait := time.Until(at); wait > coarse {
		sleepUntil(ctx, at.Add(-fine))
	}
	for wait := time.Until(at); wait > 0 && ctx.Err() == nil; wait = time.Until(at) {
		ts := unix.NsecToTimespec(wait.Nanoseconds())
		if err := unix.Nanosleep(&ts, nil); err != nil && err != unix.EINTR {
			sleepUntil(ctx, at)
			return
		}
	}
}
