package durable

// For this package's tests.
var (
	ErrNotRegular = errNotRegular
)
