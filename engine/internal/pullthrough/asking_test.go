package pullthrough

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/registry"
)

// A registry has two minutes for the whole answer to one question.
func TestTheTimeOfQuestions(t *testing.T) {
	through := New(t.Context(), Options{Fresh: time.Minute})
	defer through.stop()
	const most = 2 * time.Minute
	for _, takes := range []time.Duration{most - time.Second, most + time.Second} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			_, err := ask(t.Context(), newTurns(1, 1), "registry.example", through.within, func(ctx context.Context) (int, error) {
				select {
				case <-time.After(takes): // the clock is synctest's
					return 0, nil
				case <-ctx.Done():
					return 0, context.Cause(ctx)
				}
			})
			if took := time.Since(start); (err == nil) != (takes < most) || took != min(takes, most) || err != nil && !errors.Is(err, registry.ErrUnavailable) {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}
