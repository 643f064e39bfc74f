// Package cpulimit keeps processors free for short work: of what needs a processor for long, only so
// much runs at a time.
package cpulimit

import (
	"io"
	"runtime"
)

// Limit bounds how many functions that need the processor for long run at a time, such as decoding
// large documents for clients, so that processors are left for what must be answered at once. A nil
// Limit bounds nothing. It is safe for concurrent use.
type Limit struct{ places chan struct{} }

// New returns a Limit of half of the processors.
func New() *Limit {
	const share = 2
	return &Limit{make(chan struct{}, max(1, runtime.NumCPU()/share))}
}

// Places is how many functions may run at a time.
func (w *Limit) Places() int { return cap(w.places) }

// Do calls f as soon as fewer than Places others run. f must not call Do.
func (w *Limit) Do(f func()) {
	w.enter()
	defer w.leave()
	f()
}

// Reader returns a reader of r for functions in Do: while it waits for r, another function may run.
func (w *Limit) Reader(r io.Reader) io.Reader {
	if w == nil {
		return r
	}
	return &reader{w, r}
}

type reader struct {
	work *Limit
	next io.Reader
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	r.work.leave()
	defer r.work.enter()
	return r.next.Read(p)
}

func (w *Limit) enter() {
	if w != nil {
		w.places <- struct{}{}
	}
}

func (w *Limit) leave() {
	if w != nil {
		<-w.places
	}
}
