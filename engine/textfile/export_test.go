package textfile

// For this package's tests.
const (
	MostLine = mostLine
)
