package limits

import (
	"io"
	"runtime"
)

// Work bounds how much is worked out at once of what costs the processor for long, such as
// decoding large documents for others, so that there are processors left for what is to be
// answered at once. Nil bounds nothing.
type Work struct{ places chan struct{} }

// NewWork makes one, of half of the processors.
func NewWork() *Work {
	const share = 2
	return &Work{make(chan struct{}, max(1, runtime.NumCPU()/share))}
}

// Places is how much may be worked out at once.
func (w *Work) Places() int { return cap(w.places) }

// Do works out f when it is its turn. f may wait for the turn of nothing else.
func (w *Work) Do(f func()) {
	w.enter()
	defer w.leave()
	f()
}

// Reader is for what reads in Do: it lets others have their turn while it waits for what is read.
func (w *Work) Reader(r io.Reader) io.Reader {
	if w == nil {
		return r
	}
	return &workReader{w, r}
}

type workReader struct {
	work *Work
	next io.Reader
}

// Read implements io.Reader.
func (r *workReader) Read(p []byte) (int, error) {
	r.work.leave()
	defer r.work.enter()
	return r.next.Read(p)
}

func (w *Work) enter() {
	if w != nil {
		w.places <- struct{}{}
	}
}

func (w *Work) leave() {
	if w != nil {
		<-w.places
	}
}
