//go:build !linux

package load

import (
	"context"
	"time"
)

func preciseUntil(ctx context.Context, at time.Time) { sleepUntil(ctx, at) }
