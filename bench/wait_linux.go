package bench

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// waitUntil waits until a time or until ctx is done. The last stretch is the
// kernel's own sleep, which ends within some hundredths of a millisecond: the timers of
// Go's runtime have the millisecond of its poller.
func waitUntil(ctx context.Context, at time.Time) {
	const coarse, fine = 5 * time.Millisecond, 3 * time.Millisecond
	if wait := time.Until(at); wait > coarse {
		timerUntil(ctx, at.Add(-fine))
	}
	for wait := time.Until(at); wait > 0 && ctx.Err() == nil; wait = time.Until(at) {
		ts := unix.NsecToTimespec(wait.Nanoseconds())
		if err := unix.Nanosleep(&ts, nil); err != nil && err != unix.EINTR {
			timerUntil(ctx, at)
			return
		}
	}
}
