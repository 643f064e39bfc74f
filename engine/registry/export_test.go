package registry

// For this package's tests.
var (
	ErrContent = errContent
	ErrInvalid = errInvalid
)
