package cpulimit

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

func TestWorkLeavesProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	w := New()
	var now, most atomic.Int32
	var working sync.WaitGroup
	for range 20 {
		working.Go(func() {
			w.Do(func() {
				defer now.Add(-1)
				for n := now.Add(1); n > most.Load(); n = now.Load() {
					most.Store(n)
				}
				runtime.Gosched()
			})
		})
	}
	working.Wait()
	if most.Load() > 2 {
		t.Errorf("%d at once on 4 processors", most.Load())
	}
}

// Whoever waits for bytes has no turn meanwhile.
func TestWorkThatReads(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	w := New()
	r, out := io.Pipe()
	read := make(chan error)
	go func() {
		w.Do(func() {
			text, err := io.ReadAll(w.Reader(r))
			if string(text) != "text" {
				err = errors.Join(err, errors.New(string(text)))
			}
			read <- err
		})
	}()
	w.Do(func() {}) // while the other waits
	if _, err := io.WriteString(out, "text"); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	w.Do(func() {
		if err := iotest.TestReader(w.Reader(strings.NewReader("text")), []byte("text")); err != nil {
			t.Error(err)
		}
	})
	var none *Limit
	none.Do(func() {
		if text, err := io.ReadAll(none.Reader(strings.NewReader("text"))); err != nil || string(text) != "text" {
			t.Errorf("%q, %v", text, err)
		}
	})
}
