package tarwriter

// For this package's tests.
var (
	ErrBusy = errBusy
)
