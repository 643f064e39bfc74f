package transfer_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/transfer"
)

// named is a source with a name of its own.
type named struct {
	*lineSource
	name string
}

func (n named) Host() string { return n.name }

// joining fetches from one source while another joins, and returns how long it took.
func joining(t *testing.T, first, second transfer.Source, whole []byte, o transfer.Options) (time.Duration, error) {
	t.Helper()
	dst := &sink{}
	tr := transfer.New(describe(whole), []transfer.Source{first}, dst, o)
	var guest sync.WaitGroup
	guest.Go(func() {
		time.Sleep(time.Second)      // the clock is synctest's
		tr.Join(t.Context(), second) // too late for what is very small
	})
	start := time.Now()
	got, err := tr.Run(t.Context())
	took := time.Since(start)
	guest.Wait()
	if err == nil && (got != describe(whole).Digest || !bytes.Equal(dst.data, whole)) {
		t.Errorf("%s is not what should have come", got)
	}
	if tr.Join(t.Context(), second) {
		t.Error("one joined when all was over")
	}
	return took, err
}

// Whoever delivers next to nothing holds up nobody who knows another source, whichever came first
// and whatever the sources can do; large blobs and small ones.
func TestASlowSourceHoldsUpNobody(t *testing.T) {
	const fast = 4 << 20
	for name, slow := range map[string]func(int) (int, int){
		"drips":                  steady(100),
		"crawls":                 steady(20 << 10),
		"is silent":              func(int) (int, int) { return fast, 0 },
		"begins, then is silent": func(int) (int, int) { return fast, 300 << 10 },
	} {
		for _, size := range []int{1000, 400 << 10, 16 << 20} {
			for _, ignores := range []string{"", "the slow one", "the fast one", "both"} {
				whole := content(size)
				evil := named{&lineSource{content: whole, line: slow, ignores: ignores == "the slow one" || ignores == "both"}, "slow"}
				good := named{&lineSource{content: whole, line: steady(fast), ignores: ignores == "the fast one" || ignores == "both"}, "fast"}
				synctest.Test(t, func(t *testing.T) {
					most := time.Duration(float64(size)/fast*float64(time.Second))*2 + 25*time.Second
					o := transfer.Options{IgnoresRange: func(host string) bool {
						return ignores == "both" || ignores == "the slow one" && host == "slow" || ignores == "the fast one" && host == "fast"
					}}
					if took, err := joining(t, evil, good, whole, o); err != nil || took > most {
						t.Errorf("one that %s comes first, %d bytes, no ranges of %q: %v after %v, want at most %v", name, size, ignores, err, took, most)
					}
				})
				synctest.Test(t, func(t *testing.T) {
					fastest := time.Duration(float64(size) / fast * float64(time.Second))
					if size < 8<<20 {
						return // it is over before the second one comes
					}
					took, err := joining(t, good, evil, whole, transfer.Options{})
					if most := fastest*2 + 10*time.Second; err != nil || took > most {
						t.Errorf("one that %s comes second, %d bytes, no ranges of %q: %v after %v, want at most %v", name, size, ignores, err, took, most)
					}
				})
			}
		}
	}
}

// One that is fast enough is left alone by all that join; one that isn't is helped.
func TestSourcesThatJoinLeaveAFastOneAlone(t *testing.T) {
	const fast = 4 << 20
	for _, c := range []struct {
		name        string
		size        int
		line        func(int) (int, int)
		connections int
		helped      bool
	}{
		{"fast", 64 << 20, steady(fast), 1, false},
		{"just fast enough", 64 << 20, steady(512 << 10), 1, false},
		{"fast over several connections together", 32 << 20, steady(150 << 10), 4, false},
		{"slow", 16 << 20, steady(100 << 10), 1, true},
		{"silent after a while", 16 << 20, func(int) (int, int) { return fast, 8 << 20 }, 1, true},
	} {
		whole := content(c.size)
		synctest.Test(t, func(t *testing.T) {
			one, two := named{&lineSource{content: whole, line: c.line}, "one"}, named{&lineSource{content: whole, line: steady(fast)}, "two"}
			dst := &sink{}
			tr := transfer.New(describe(whole), []transfer.Source{one}, dst, transfer.Options{})
			var others sync.WaitGroup
			done := make(chan struct{})
			for range c.connections - 1 {
				others.Go(func() {
					for { // as a scheduler does
						select {
						case <-done:
							return
						case <-time.After(100 * time.Millisecond): // the clock is synctest's
							_ = tr.Help(t.Context(), func() bool { return false })
						}
					}
				})
			}
			others.Go(func() {
				time.Sleep(time.Second)
				tr.Join(t.Context(), two)
			})
			if _, err := tr.Run(t.Context()); err != nil || !bytes.Equal(dst.data, whole) {
				t.Errorf("%s: %v", c.name, err)
			}
			close(done)
			others.Wait()
			if helped := two.sent.Load() > 0; helped != c.helped {
				t.Errorf("one that is %s was helped with %d bytes", c.name, two.sent.Load())
			}
		})
	}
}

// What goes wrong at a source that has joined is nothing to the one that was there: it has other
// content, or none.
func TestASourceThatJoinsSpoilsNothing(t *testing.T) {
	const size, rate = 16 << 20, 4 << 20
	whole := content(size)
	other := bytes.Repeat([]byte("evil"), size/4)
	synctest.Test(t, func(t *testing.T) {
		good, evil := named{&lineSource{content: whole, line: steady(rate / 64)}, "good"}, named{&lineSource{content: other, line: steady(rate)}, "evil"}
		if _, err := joining(t, good, evil, whole, transfer.Options{}); err != nil {
			t.Error(err)
		}
		if evil.sent.Load() == 0 {
			t.Error("the other one had no part in it")
		}
	})
	// And one that was there with other content is found out, whoever joins.
	synctest.Test(t, func(t *testing.T) {
		good, evil := named{&lineSource{content: whole, line: steady(rate)}, "good"}, named{&lineSource{content: other, line: steady(rate)}, "evil"}
		var mismatch *transfer.MismatchError
		if _, err := joining(t, evil, good, whole, transfer.Options{}); !errors.As(err, &mismatch) {
			t.Error(err)
		}
	})
}
