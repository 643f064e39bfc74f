package retrying

import (
	"context"

	"drayage/engine/internal/retry"
)

// Tries say what a request's tries are drawn from. They go with the request's
// context, since the auth library and net/http stand between who knows and who
// tries.
type Tries struct {
	Budget *retry.Budget
	Host   string // the source, which may redirect to others
	Once   bool   // the caller has other sources to try
	// Redirected says that the host is one that the registry has redirected to. When it
	// can't be reached the registry may know another.
	Redirected bool
	// Unsure says that the host may not speak the scheme at all: without an answer it isn't
	// tried again.
	Unsure bool
}

type triesKey struct{}

// WithTries is a context for a request with tries of its own.
func WithTries(ctx context.Context, t Tries) context.Context {
	return context.WithValue(ctx, triesKey{}, t)
}

// TriesOf are those that a context has.
func TriesOf(ctx context.Context) Tries {
	given, _ := ctx.Value(triesKey{}).(Tries)
	return given
}

// Unsurely marks a request to a host that may not speak the scheme at all.
func Unsurely(ctx context.Context) context.Context {
	given := TriesOf(ctx)
	given.Unsure = true
	return WithTries(ctx, given)
}
