package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// errStalled ends a body that has been silent for too long.
var errStalled = errors.New("no byte came for too long")

// watch makes bodies end with an error when a read gets nothing for a while,
// and come no faster than allowed. Bodies of every kind are watched, those of
// errors and tokens too: none may keep a run waiting for ever.
type watch struct {
	stall time.Duration
	limit *rate.Limiter // nil means none
}

func (w watch) body(ctx context.Context, resp *http.Response) io.ReadCloser {
	out := &watched{watch: w, ctx: ctx, body: resp.Body}
	// Closing the body ends a read of it, and the connection.
	out.timer = time.AfterFunc(w.stall, func() { out.body.Close() })
	out.timer.Stop()
	return out
}

// watched is a body under watch. The context is that of its request, whose end
// ends the body too.
type watched struct {
	watch
	ctx   context.Context
	body  io.ReadCloser
	timer *time.Timer // runs while a read waits
}

func (w *watched) Read(p []byte) (int, error) {
	if w.limit != nil && len(p) > w.limit.Burst() {
		p = p[:w.limit.Burst()]
	}
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	if !w.timer.Stop() && err != nil {
		err = fmt.Errorf("%w (%v)", errStalled, w.stall)
	}
	if n > 0 && w.limit != nil && (err == nil || errors.Is(err, io.EOF)) {
		// Afterwards: the bytes are here, the next ones wait. The last ones of a body come
		// with its end, and small bodies have no others.
		if waitErr := w.limit.WaitN(w.ctx, n); waitErr != nil {
			err = waitErr
		}
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	return w.body.Close()
}
