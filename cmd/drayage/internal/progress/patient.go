package progress

import (
	"io"
	"sync"
	"time"
)

// Patient is a writer that nobody waits for: what is written is kept until whoever reads it has
// taken what was before. When too much would have to be kept, whole writes are left out, and
// that is told.
type Patient struct {
	w      io.Writer
	notice func(left int) []byte

	mu      sync.Mutex
	changed *sync.Cond
	queue   [][]byte
	size    int // bytes of the queue
	left    int // writes that were left out
	running bool
}

const (
	mostKept = 4 << 20         // bytes
	flushes  = 2 * time.Second // that an end waits for a reader who doesn't read
)

// NewPatient makes one. What it starts ends when all is written. notice is what is written for
// writes that were left out, so many.
func NewPatient(w io.Writer, notice func(left int) []byte) *Patient {
	p := &Patient{w: w, notice: notice}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// Write implements io.Writer. It never waits, and its error is always nil.
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

func (p *Patient) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 {
		part := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		_, _ = p.w.Write(part) // there is nobody to tell
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

// Flush waits until all is written, or its reader has taken nothing for a while.
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
