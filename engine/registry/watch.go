package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"drayage/engine/limits"

	"golang.org/x/time/rate"
)

// errStalled ends a body that has been silent for too long.
var errStalled = errors.New("no data received for too long")

// watch makes bodies end with an error when a read gets nothing for a while,
// and come no faster than allowed. Bodies of every kind are watched, those of
// errors and tokens too: none may keep a run waiting for ever.
type watch struct {
	stall time.Duration
	grace time.Duration // how long what is no blob may take before limits.AnswerRate is wanted
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

	whole  bool // it is read as a whole, and may not drip
	got    int64
	waited time.Duration // for what came of it
}

// errSlow ends an answer that would never have come as a whole.
var errSlow = errors.New("response too slow")

// asWhole has a body watched that is read as a whole: one that drips a byte now and then is never
// silent, and would never end.
func asWhole(body io.Reader) {
	if w, ok := body.(*watched); ok {
		w.whole = true
	}
}

// slow is an error when a body has taken longer than its bytes may take.
func (w *watched) slow() error {
	if most := w.grace + time.Duration(w.got)*time.Second/limits.AnswerRate; w.whole && w.waited > most {
		return fmt.Errorf("%w: %d bytes in %v", errSlow, w.got, w.waited.Round(time.Millisecond))
	}
	return nil
}

func (w *watched) Read(p []byte) (int, error) {
	if w.limit != nil && len(p) > w.limit.Burst() {
		p = p[:w.limit.Burst()]
	}
	if err := w.slow(); err != nil {
		return 0, err
	}
	begun := time.Now()
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	w.waited += time.Since(begun)
	w.got += int64(n)
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
