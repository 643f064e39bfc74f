package bench

// For this package's tests.
var (
	Resolve = resolve
)
