package process

import (
	"context"
	"time"
)

// Poll calls read every so often until ctx is done, one at a time, and after when one has ended and
// every second meanwhile. A file system that doesn't answer holds up read alone: it can't be called
// off, so one that is under way at the end is left behind.
func Poll(ctx context.Context, due func() bool, read, after func()) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var done chan struct{} // closed when read has ended; nil when it isn't under way
	for {
		if done == nil && due() {
			ended := make(chan struct{})
			go func() { defer close(ended); read() }()
			done = ended
		}
		select {
		case <-done:
			done = nil
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		after()
	}
}
