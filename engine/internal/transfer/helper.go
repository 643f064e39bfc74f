package transfer

import (
	"context"
	"errors"
	"time"
)

// help is who may help.
type help struct {
	excluded bool      // nobody may: one worker needs all that is missing, or all begins anew
	until    time.Time // nobody may until then: help failed
	refusals int       // in a row
}

// Help implements schedule.Sharer: it fetches pieces until there is nothing to
// take, or surplus says that the connection is wanted elsewhere. What fails is
// left to Run.
func (t *Transfer) Help(ctx context.Context, surplus func() bool) error {
	w := t.enter(helper)
	if w == nil {
		return nil
	}
	defer w.leave()
	for ctx.Err() == nil && !surplus() && t.nextHelp(w) {
		src := t.source()
		before := w.wrote()
		err := w.fetch(ctx, src)
		if err == nil || errors.Is(err, errInterrupted) {
			continue
		}
		var local *localError
		if errors.As(err, &local) {
			t.fail(local.Err)
			return nil
		}
		if errors.As(err, new(*brokenError)) {
			t.opts.Broken(src.Host())
		}
		if w.wrote() == before { // else something came: a part of a piece is one too
			t.refuse(err)
			return nil
		}
	}
	return nil
}

// nextHelp gives a helper its next piece, and reports whether there is one.
func (t *Transfer) nextHelp(w *worker) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(w)
	return t.isHelpable() && t.take(w) != nil
}

// refuse keeps helpers away for a while after one got nothing, longer each time,
// or for good when the source has never given a range.
func (t *Transfer) refuse(err error) {
	const first, most, forGood = 2 * time.Second, time.Minute, 1000 * time.Hour
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := min(most, first<<min(t.help.refusals, 10))
	if errors.Is(err, ErrRange) && !t.sources.First().Honoured {
		wait = forGood
	}
	t.help.refusals++
	t.help.until = time.Now().Add(wait)
}

// isHelpable reports whether others than the primary may fetch. The caller holds
// t.mu.
func (t *Transfer) isHelpable() bool {
	return t.primary.began && !t.stopped() && !t.help.excluded && !t.sources.First().NoRanges && time.Now().After(t.help.until)
}
