package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drayage/engine/retry"
)

// lead fetches until nothing is missing, with patience, whatever fails.
func (t *Transfer) lead(ctx context.Context) error {
	w := t.join()
	w.leads = true
	defer w.leave()
	failed := 0 // sources in a row that gave no byte
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
			failed, t.stuck = 0, 0
			t.opts.Budget.Progress()
		}
		if err != nil {
			err = t.settle(ctx, src, err, moved, &failed)
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
	t.give(w)
	for {
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case t.fault != nil:
			return false, t.fault
		case t.verified && len(t.gaps) == 0:
			return false, nil
		}
		if t.take(w) != nil {
			return true, nil
		}
		t.changed.Wait()
		wake.Reset(again)
	}
}

func (t *Transfer) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed.Broadcast()
}

// settle decides what becomes of the transfer after the lead's fetch failed:
// nil means to go on.
func (t *Transfer) settle(ctx context.Context, src *source, err error, moved bool, failed *int) error {
	var broken *brokenError
	var mismatch *MismatchError
	var local *LocalError
	why := err
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &local), errors.As(err, &mismatch), errors.Is(err, ErrWasteful):
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
		if t.stuck++; moved || t.stuck <= mostOdd || errors.Is(err, ErrRange) {
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
		t.next()
		why, err = broken.err, fmt.Errorf("%s: %w: %w", src.Host(), ErrGaveUp, broken.err)
	case errors.Is(err, ErrOdd):
		t.next()
		err = fmt.Errorf("%w: %w", ErrGaveUp, err)
	case errors.Is(err, ErrPassing):
		// The source has done what tries it had.
		*failed++
		t.mu.Lock()
		sources := len(t.sources)
		t.mu.Unlock()
		if sources == 1 {
			return err
		}
		t.next()
		if *failed < sources {
			return nil // the next one, at once
		}
		*failed = 0
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
		if src.odd++; src.odd <= mostOdd {
			t.sources = append(t.sources[1:len(t.sources):len(t.sources)], t.sources[0])
			return nil // it may be one server of several
		}
		src.odd = 0
		if len(t.sources) > 1 {
			return err // and is left out
		}
		return &MismatchError{Want: t.want.Digest, WantSize: t.want.Size, GotSize: min(total.Total, t.want.Size+1), Host: src.Host()}
	}
	at := t.asked
	var ended *endedError
	if errors.As(err, &ended) {
		at = ended.at
	}
	// A body that ends early may be a bad proxy's. But if there is nothing more
	// to be had from there, the blob ends there.
	if t.endedAt == at {
		return &MismatchError{Want: t.want.Digest, WantSize: t.want.Size, GotSize: at, Host: src.Host()}
	}
	if ended != nil && ended.err == nil {
		t.endedAt = at
		return nil
	}
	if ended == nil && t.askedWhole {
		return err
	}
	if src.odd++; src.honoured && src.odd <= mostOdd {
		return nil
	}
	src.noRanges = true
	return nil
}

// Help implements schedule.Sharer: it fetches pieces until there is nothing to
// take, or surplus says that the connection is wanted elsewhere. What fails is
// left to Run.
func (t *Transfer) Help(ctx context.Context, surplus func() bool) error {
	w := t.join()
	if w == nil {
		return nil
	}
	defer w.leave()
	for ctx.Err() == nil && !surplus() {
		t.mu.Lock()
		t.give(w)
		var piece *gap
		if t.helpable() {
			piece = t.take(w)
		}
		t.mu.Unlock()
		if piece == nil {
			return nil
		}
		src := t.source()
		before := w.wrote()
		err := w.fetch(ctx, src)
		if err == nil || errors.Is(err, errInterrupted) {
			continue
		}
		var local *LocalError
		var broken *brokenError
		switch {
		case errors.As(err, &local):
			t.fail(local.Err)
			return nil
		case errors.As(err, &broken):
			t.opts.Broken(src.Host())
		}
		if w.wrote() > before {
			continue // something came: a part of a piece is one too
		}
		t.refuse(err)
		return nil
	}
	return nil
}

// refuse keeps helpers away for a while after one got nothing, longer each time,
// or for good when the source has never given a range.
func (t *Transfer) refuse(err error) {
	const first, most = 2 * time.Second, time.Minute
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := min(most, first<<min(t.refusals, 10))
	if src := t.sources[0]; errors.Is(err, ErrRange) && !src.honoured {
		wait = 1000 * time.Hour
	}
	t.refusals++
	t.refused = time.Now().Add(wait)
}

// helpable reports whether others than the lead may fetch. The caller holds
// t.mu.
func (t *Transfer) helpable() bool {
	return !t.over && !t.alone && t.fault == nil && !t.sources[0].noRanges && time.Now().After(t.refused)
}
