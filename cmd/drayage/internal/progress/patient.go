package progress

import (
	"io"
	"sync"
	"time"
)

// Patient is a writer that never blocks: what is written is queued until the reader of w has read
// what was written before. When more than 4 MiB would be queued, writes are dropped as a whole, and
// a notice reports how many. It may be used from several goroutines.
type Patient struct {
	w      io.Writer
	notice func(left int) []byte

	mu      sync.Mutex
	changed *sync.Cond
	queue   [][]byte
	size    int // bytes of the queue
	left    int // writes that were dropped
	running bool
}

const (
	mostKept = 4 << 20         // bytes
	flushes  = 2 * time.Second // how long Flush waits for a reader that does not read
)

// NewPatient makes a Patient that writes to w. Its goroutine ends when everything is written, which
// Flush waits for. notice returns what to write in place of so many dropped writes.
func NewPatient(w io.Writer, notice func(left int) []byte) *Patient {
	p := &Patient{w: w, notice: notice}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// Write implements io.Writer. It never blocks, and its error is always nil.
func (p *Patient) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size+len(b) > mostKept {
		p.left++
		return len(b), nil
	}
	p.queue = append(p.queue, append([]byte(nil), b...))
	p.size += len(b)
	if !p.running {
		p.running = true
		go p.drain() // ends when the queue is empty
	}
	return len(b), nil
}

// drain writes the queue until it is empty.
func (p *Patient) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 {
		part := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		_, _ = p.w.Write(part) // there is nobody to report an error to
		p.mu.Lock()
		p.size -= len(part)
		if len(p.queue) == 0 && p.left > 0 {
			notice := p.notice(p.left)
			p.left = 0
			p.queue, p.size = append(p.queue, notice), p.size+len(notice)
		}
	}
	p.running = false
	p.changed.Broadcast()
}

// Flush waits until everything is written, or the reader has read nothing for 2 seconds.
func (p *Patient) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.running {
		before, late := p.size, false
		timer := time.AfterFunc(flushes, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			late = true
			p.changed.Broadcast()
		})
		for p.running && !late {
			p.changed.Wait()
		}
		timer.Stop()
		if late && p.size >= before {
			return
		}
	}
}
