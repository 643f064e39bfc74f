package blobstore

// For this package's tests.
var (
	ErrNotStore = errNotStore
)
