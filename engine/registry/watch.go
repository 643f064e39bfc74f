package registry

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// errStalled ends a body that has been silent for too long.
var errStalled = errors.New("no byte came for too long")

// watch makes a body end with an error when a read of it gets nothing for a
// while. Bodies of every kind are watched, those of errors and tokens too: none
// may keep a run waiting for ever.
func watch(body io.ReadCloser, stall time.Duration) io.ReadCloser {
	w := &watched{body: body, stall: stall}
	// Closing the body ends a read of it, and the connection.
	w.timer = time.AfterFunc(stall, func() { body.Close() })
	w.timer.Stop()
	return w
}

type watched struct {
	body  io.ReadCloser
	stall time.Duration
	timer *time.Timer // runs while a read waits
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	if !w.timer.Stop() && err != nil {
		err = fmt.Errorf("%w (%v)", errStalled, w.stall)
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	return w.body.Close()
}
