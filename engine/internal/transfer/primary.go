package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer/internal/rotation"
)

// primary is what the primary connection has to remember from one try to the
// next.
type primary struct {
	began      bool  // it has its first piece: before that, nobody helps
	asked      int64 // from where it asked last
	askedWhole bool  // it asked for all of the blob
	stuck      int   // answers in a row that brought nothing, and were no failures
	failed     int   // sources in a row that gave no byte
	endedAt    int64 // where a body ended in good order but too early, or -1
}

// fetchAll fetches until nothing is missing, with patience, whatever fails.
func (t *Transfer) fetchAll(ctx context.Context) error {
	w := t.enter(leading)
	defer w.leave()
	t.primary.failed = 0
	for {
		ok, err := t.nextPiece(ctx, w)
		if err != nil || !ok {
			return err
		}
		src := t.source()
		before := w.wrote()
		err = w.fetch(ctx, src)
		moved := w.wrote() > before
		if moved {
			t.primary.failed, t.primary.stuck = 0, 0
			t.opts.Budget.Progress()
		}
		if err != nil {
			err = t.settle(ctx, src, err, moved)
		}
		if err != nil {
			return err
		}
	}
}

// nextPiece waits for something to fetch, and reports whether there is any:
// while others are at the last pieces, they may fail, or turn out to be slow.
func (t *Transfer) nextPiece(ctx context.Context, w *worker) (bool, error) {
	const again = 100 * time.Millisecond
	wake := time.AfterFunc(again, t.wake)
	defer wake.Stop()
	defer context.AfterFunc(ctx, t.wake)()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(w)
	for {
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case t.fault != nil:
			return false, t.fault
		case t.phase == fetching && t.missing.IsEmpty():
			return false, nil
		}
		if t.take(w) != nil {
			t.primary.began = true
			return true, nil
		}
		t.changed.Wait()
		wake.Reset(again)
	}
}

// settle decides what becomes of the transfer after the primary's fetch failed:
// nil means to go on.
func (t *Transfer) settle(ctx context.Context, src *source, err error, moved bool) error {
	var broken *brokenError
	var mismatch *MismatchError
	var local *localError
	why := err
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &local), errors.As(err, &mismatch), errors.Is(err, errWasteful):
		return err
	case errors.Is(err, errInterrupted):
		return nil
	case errors.Is(err, ErrRange), errors.As(err, new(*endedError)):
		if err := t.settleRange(src, err); err != nil {
			if !errors.As(err, &mismatch) && t.drop(src) {
				return nil
			}
			return err
		}
		// Wrong totals and refused ranges are counted with their source.
		if t.primary.stuck++; moved || t.primary.stuck <= rotation.MostOdd || errors.Is(err, ErrRange) {
			return nil
		}
		err = fmt.Errorf("%s: %w: %w", src.Host(), ErrGaveUp, err)
	case errors.As(err, &broken):
		t.opts.Broken(src.Host())
		if moved {
			// It moves: no reason to wait, nor to look elsewhere.
			t.opts.Retrying(2, 0, broken.err)
			return nil
		}
		t.turn()
		why, err = broken.err, fmt.Errorf("%s: %w: %w", src.Host(), ErrGaveUp, broken.err)
	case errors.Is(err, ErrOdd):
		t.turn()
		err = fmt.Errorf("%w: %w", ErrGaveUp, err)
	case errors.Is(err, ErrPassing):
		// The source has done what tries it had.
		t.primary.failed++
		t.mu.Lock()
		sources := t.sources.Len()
		t.mu.Unlock()
		if sources == 1 {
			return err
		}
		t.turn()
		if t.primary.failed < sources {
			return nil // the next one, at once
		}
		t.primary.failed = 0
	default:
		if t.drop(src) {
			return nil
		}
		return err
	}
	wait, again := t.opts.Budget.Next(retry.Failure{Host: src.Host(), Err: err, Reached: true})
	if !again {
		return err
	}
	t.opts.Retrying(t.opts.Budget.Tries()+1, wait, why)
	return retry.Sleep(ctx, wait)
}

// settleRange decides after a source could not begin where it was asked to, or
// ended in good order before the end.
func (t *Transfer) settleRange(src *source, err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var total *TotalError
	if errors.As(err, &total) && total.Total != t.want.Size {
		if src.IsOdd() {
			t.sources.Turn()
			return nil
		}
		src.Odd = 0
		if t.sources.Len() > 1 {
			return err // and is left out
		}
		return &MismatchError{Want: t.want.Digest, WantSize: t.want.Size, GotSize: min(total.Total, t.want.Size+1), Host: src.Host()}
	}
	at := t.primary.asked
	var ended *endedError
	if errors.As(err, &ended) {
		at = ended.at
	}
	// A body that ends early may be a bad proxy's. But if there is nothing more
	// to be had from there, the blob ends there.
	if t.primary.endedAt == at {
		return &MismatchError{Want: t.want.Digest, WantSize: t.want.Size, GotSize: at, Host: src.Host()}
	}
	if ended != nil && ended.err == nil {
		t.primary.endedAt = at
		return nil
	}
	if ended == nil && t.primary.askedWhole {
		return err
	}
	if src.IsOdd() && src.Honoured {
		return nil
	}
	src.NoRanges = true
	return nil
}
