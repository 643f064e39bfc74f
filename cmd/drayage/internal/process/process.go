// Package process is what a command has of its process: the streams that it reads and writes, and
// how it ends at a signal.
package process

import (
	"io"
	"os"
	"time"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/terminal"
)

// Streams are what a command reads and writes besides files.
type Streams struct {
	In  io.Reader
	Out terminal.Escaper // what was asked for, and nothing else
	Err terminal.Escaper // everything else

	Ending *Ending // of this process; nil in tests

	// For tests that let the process die at a call:
	Disk       durable.Disk  // what the store is kept on; nil means this machine's
	Checkpoint time.Duration // 0 means the engine's
}

// Standard are the streams of this process.
func Standard() Streams {
	return Streams{In: os.Stdin, Out: terminal.New(os.Stdout), Err: terminal.New(os.Stderr)}
}
