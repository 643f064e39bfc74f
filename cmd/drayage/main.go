// Drayage downloads container images: many at once, resumable, verified, into
// one archive that docker load takes.
package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
)

func main() { os.Exit(runProcess(standardStreams())) }

// runProcess runs this process's command line, until a signal ends it, and
// returns the exit status.
func runProcess(s streams) int {
	// A reader of standard output that goes away is an error among others: what was
	// begun is to be cleared away.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	stdlog.SetOutput(io.Discard) // where net/http quotes what servers send that nobody has asked for
	ctx, stop := interruptible(context.Background())
	s.ending, _ = ctx.Value(endingKey{}).(*ending)
	err := run(ctx, os.Args[1:], s)
	stop()
	return status.Of(err)
}

// interruptible is a context that ends with the first SIGINT, SIGTERM or SIGHUP, which a terminal
// that is closed sends, unless that is ignored, as under nohup. With
// the second, or when a system call such as a long sync keeps the run from
// ending within a second, the process exits at once: what is on disk is whole
// at any moment.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ending := new(ending)
	ending.grace.Store(int64(900 * time.Millisecond))
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, endingKey{}, ending))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(signals, syscall.SIGHUP)
	}
	over := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var why status.SignalError
		for why.Signal == 0 {
			select {
			case s := <-signals:
				if s == syscall.SIGHUP && ending.hangups.Load() {
					continue
				}
				why = status.SignalError{Signal: s.(syscall.Signal)}
				cancel(why)
			case <-over:
				return
			}
		}
		select {
		case <-signals:
		case <-time.After(time.Duration(ending.grace.Load())):
		case <-over:
			return
		}
		ending.sayInTime(why)
		os.Exit(status.Of(why))
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(over)
		<-ended
		cancel(errors.New("the run is over"))
	}
}

// ending is how a run ends at a signal.
type ending struct {
	grace   atomic.Int64 // how long it may take, in nanoseconds
	hangups atomic.Bool  // SIGHUP doesn't end it
	said    atomic.Bool  // why it ended
	json    atomic.Bool  // that is said as an event
}

// tell reports whether it is still to be said why the run ended, and notes that it is.
func (e *ending) tell() bool { return e == nil || e.said.CompareAndSwap(false, true) }

// sayInTime says why the run ended, unless that was said, and waits for a reader who is slow, but
// not for one who doesn't read.
func (e *ending) sayInTime(why error) {
	if !e.tell() {
		return
	}
	var line bytes.Buffer
	switch {
	case e.json.Load():
		progress.NewJSON(&line).Observe(status.Event(why))
	case terminal.Is(os.Stderr): // a bar may stand there
		line.WriteString("\n")
		fallthrough
	default:
		status.Report(&line, why, false)
	}
	const patience = 200 * time.Millisecond
	said := make(chan struct{})
	go func() {
		_, _ = os.Stderr.Write(line.Bytes())
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(patience):
	}
}

type endingKey struct{}

// allowDraining gives a run longer to end after a signal: it has others to let end.
func allowDraining(ctx context.Context, d time.Duration) {
	if e, ok := ctx.Value(endingKey{}).(*ending); ok {
		e.grace.Store(int64(d))
	}
}

// keepHangups leaves SIGHUP to a run, for which it means something else than to end.
func keepHangups(ctx context.Context) {
	if e, ok := ctx.Value(endingKey{}).(*ending); ok {
		e.hangups.Store(true)
	}
}
