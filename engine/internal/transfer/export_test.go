package transfer

// For this package's tests.
type (
	LocalError = localError
)

// For this package's tests.
var (
	ErrWasteful = errWasteful
	Fetch       = fetchOne
)
