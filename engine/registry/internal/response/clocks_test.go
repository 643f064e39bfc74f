package response

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/limits"

	"golang.org/x/time/rate"
)

// pipeBody is a body that a test writes to.
func pipeBody(w Watch, status int) (io.ReadCloser, *io.PipeWriter) {
	r, out := io.Pipe()
	return w.Body(context.Background(), &http.Response{StatusCode: status, Body: r}), out
}

func TestABodyMayBeSilentForAsLongAsAllowed(t *testing.T) {
	for silence, want := range map[time.Duration]error{14 * time.Second: nil, 16 * time.Second: errStalled} {
		synctest.Test(t, func(t *testing.T) {
			body, out := pipeBody(Watch{Stall: 15 * time.Second}, http.StatusOK)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range 3 {
					time.Sleep(silence) // the clock is synctest's
					if _, err := out.Write([]byte("x")); err != nil {
						return
					}
				}
				out.Close()
			}()
			start := time.Now()
			got, err := io.ReadAll(body)
			if !errors.Is(err, want) || want == nil && len(got) != 3 {
				t.Errorf("after silences of %v: %d bytes, %v", silence, len(got), err)
			}
			if took := time.Since(start); want != nil && took != 15*time.Second {
				t.Errorf("ended after %v, want 15s", took)
			}
			body.Close()
			<-done
		})
	}
}

// What is no blob has 30 s, and then has to come with 1 KiB/s.
func TestTheTimeOfAnswersThatAreNoBlobs(t *testing.T) {
	for _, of := range []struct {
		name   string
		chunks int // of which each has bytes
		bytes  int
		each   time.Duration // a chunk takes
		whole  bool
		ok     bool
	}{
		{"29 s", 1, 1, 29 * time.Second, true, true},
		{"30 s", 1, 1, 30 * time.Second, true, true},
		{"31 s", 1, 1, 31 * time.Second, true, false},
		{"31 s, of a blob", 1, 1, 31 * time.Second, false, true},
		{"a little faster", 1000, 1025, time.Second, true, true},
		{"1 KiB/s", 1000, 1024, time.Second, true, true},
		{"a little slower", 40_000, 1023, time.Second, true, false}, // a millisecond each second adds up to 30 s
		{"a little slower, of a blob", 40_000, 1023, time.Second, false, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			body, out := pipeBody(Watch{Stall: time.Hour, Grace: limits.AnswerGrace}, http.StatusOK)
			if of.whole {
				AsWhole(body)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range of.chunks {
					time.Sleep(of.each) // the clock is synctest's
					if _, err := out.Write(make([]byte, of.bytes)); err != nil {
						return
					}
				}
				out.Close()
			}()
			_, err := io.Copy(io.Discard, onlyReader{body})
			if of.ok && err != nil || !of.ok && !errors.Is(err, errSlow) {
				t.Errorf("%s: %v", of.name, err)
			}
			body.Close()
			<-done
		})
	}
}

// onlyReader hides a reader's other methods.
type onlyReader struct{ io.Reader }

func TestBodiesTogetherStayUnderTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, each, bodies = 100_000, 200_000, 4
		w := Watch{Stall: time.Minute, Limit: rate.NewLimiter(perSecond, 2000)}
		done := make(chan struct{})
		start := time.Now()
		for range bodies {
			body, out := pipeBody(w, http.StatusOK)
			go func() { out.Write(make([]byte, each)); out.Close() }()
			go func() {
				if n, err := io.Copy(io.Discard, body); n != each || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
				done <- struct{}{}
			}()
		}
		for range bodies {
			<-done
		}
		if took, want := time.Since(start), bodies*each/perSecond*time.Second; took < want*95/100 || took > want*105/100 {
			t.Errorf("took %v, want %v", took, want)
		}
	})
}

func TestTheWaitForTheLimitEndsWithTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r, out := io.Pipe()
		body := Watch{Stall: time.Minute, Limit: rate.NewLimiter(1, 1000)}.Body(ctx, &http.Response{StatusCode: 200, Body: r})
		done := make(chan struct{})
		go func() { out.Write(make([]byte, 5000)); close(done) }()
		start := time.Now()
		_, err := io.ReadAll(body)
		if err == nil || time.Since(start) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		body.Close()
		<-done
	})
}
