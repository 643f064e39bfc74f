package archive

// For this package's tests.
var (
	ErrInvalid    = errInvalid
	ErrMismatch   = errMismatch
	ErrIncomplete = errIncomplete
	ErrReplaces   = errReplaces
)
