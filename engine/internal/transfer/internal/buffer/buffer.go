// Package buffer has the buffers that blobs are read into.
package buffer

import "sync"

// A Buffer is as large as keeps a fast link busy and hashing in the cache, or as a small blob needs.
// Each connection has one in use, and the hasher a few.
type Buffer struct {
	P    []byte
	pool *sync.Pool
}

const (
	// Large is the size of the buffers of larger blobs, in bytes.
	Large = 128 << 10
	small = 16 << 10
)

var larges, smalls sync.Pool

func init() {
	larges.New = func() any { return &Buffer{make([]byte, Large), &larges} }
	smalls.New = func() any { return &Buffer{make([]byte, small), &smalls} }
}

// New returns a buffer for a blob of a size, in bytes. Free must follow.
func New(size int64) *Buffer {
	if size <= small {
		return smalls.Get().(*Buffer)
	}
	return larges.Get().(*Buffer)
}

// Free gives a buffer back.
func (b *Buffer) Free() { b.pool.Put(b) }
