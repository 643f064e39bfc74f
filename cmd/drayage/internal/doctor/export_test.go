package doctor

// For this package's tests.
const (
	Good = good
	Note = note
	Bad  = bad
)
