package compose

// For this package's tests.
type (
	DiffIDError = diffIDError
)
