package policy

// For this package's tests.
const (
	Least = least
)
