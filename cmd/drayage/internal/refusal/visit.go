package refusal

import (
	"context"

	"drayage/cmd/drayage/internal/client"
)

// Visit is what is known of a request beside itself.
type Visit struct {
	From client.Address
	// Why it was refused, a word of metrics; "" when it wasn't
	Why string
}

type visitKey struct{}

// VisitOf is the visit that a request's context has, or an empty one.
func VisitOf(ctx context.Context) *Visit {
	if v, ok := ctx.Value(visitKey{}).(*Visit); ok {
		return v
	}
	return new(Visit)
}

// WithVisit is a context that has a visit.
func WithVisit(ctx context.Context, v *Visit) context.Context {
	return context.WithValue(ctx, visitKey{}, v)
}
