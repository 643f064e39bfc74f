package process

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
)

// Interruptible is a context that ends with the first SIGINT, SIGTERM or SIGHUP, which a terminal
// that is closed sends, unless that is ignored, as under nohup. With
// the second, or when a system call such as a long sync keeps the run from
// ending within a second, the process exits at once: what is on disk is whole
// at any moment. The run says to its ending what it needs; stop ends the waiting for signals.
func Interruptible(parent context.Context) (ctx context.Context, ending *Ending, stop func()) {
	ending = new(Ending)
	ending.grace.Store(int64(900 * time.Millisecond))
	ctx, cancel := context.WithCancelCause(parent)
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
	return ctx, ending, func() {
		signal.Stop(signals)
		close(over)
		<-ended
		cancel(errors.New("the run is over"))
	}
}

// Ending is how a run ends at a signal. A nil one is that of a run that signals don't end.
type Ending struct {
	grace   atomic.Int64 // how long it may take, in nanoseconds
	hangups atomic.Bool  // SIGHUP doesn't end it
	said    atomic.Bool  // why it ended
	json    atomic.Bool  // that is said as an event
}

// Tell reports whether it is still to be said why the run ended, and notes that it is.
func (e *Ending) Tell() bool { return e == nil || e.said.CompareAndSwap(false, true) }

// sayInTime says why the run ended, unless that was said, and waits for a reader who is slow, but
// not for one who doesn't read.
func (e *Ending) sayInTime(why error) {
	if !e.Tell() {
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

// SayAsEvent has it said as a JSON event why the run ended.
func (e *Ending) SayAsEvent() {
	if e != nil {
		e.json.Store(true)
	}
}

// AllowDraining gives a run longer to end after a signal: it has others to let end.
func (e *Ending) AllowDraining(d time.Duration) {
	if e != nil {
		e.grace.Store(int64(d))
	}
}

// KeepHangups leaves SIGHUP to a run, for which it means something else than to end.
func (e *Ending) KeepHangups() {
	if e != nil {
		e.hangups.Store(true)
	}
}
