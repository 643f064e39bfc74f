package printable

// For this package's tests.
const (
	Most = most
)
