// Drayage downloads container images: many at once, resumable, verified, into
// one archive that docker load takes.
package main

import (
	"context"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"syscall"

	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
)

func main() { os.Exit(runProcess(process.Standard())) }

// runProcess runs this process's command line, until a signal ends it, and
// returns the exit status.
func runProcess(s process.Streams) int {
	// A reader of standard output that goes away is an error among others: what was
	// begun is to be cleared away.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	stdlog.SetOutput(io.Discard) // where net/http quotes what servers send that nobody has asked for
	ctx, ending, stop := process.Interruptible(context.Background())
	s.Ending = ending
	err := run(ctx, os.Args[1:], s)
	stop()
	return status.Of(err)
}
