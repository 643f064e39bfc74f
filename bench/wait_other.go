//go:build !linux

package bench

import (
	"context"
	"time"
)

func waitUntil(ctx context.Context, at time.Time) { timerUntil(ctx, at) }
