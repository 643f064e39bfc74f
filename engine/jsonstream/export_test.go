package jsonstream

// For this package's tests.
var (
	ErrJSON = errJSON
)
