package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/retry"

	"golang.org/x/time/rate"
)

// pipeBody is a body that a test writes to.
func pipeBody(w watch, status int) (io.ReadCloser, *io.PipeWriter) {
	r, out := io.Pipe()
	return w.body(context.Background(), &http.Response{StatusCode: status, Body: r}), out
}

func TestABodyMayBeSilentForAsLongAsAllowed(t *testing.T) {
	for silence, want := range map[time.Duration]error{14 * time.Second: nil, 16 * time.Second: errStalled} {
		synctest.Test(t, func(t *testing.T) {
			body, out := pipeBody(watch{stall: 15 * time.Second}, http.StatusOK)
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
	c := New(Options{})
	defer c.Close()
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
			body, out := pipeBody(watch{stall: time.Hour, grace: c.opts.Grace}, http.StatusOK)
			if of.whole {
				asWhole(body)
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
		w := watch{stall: time.Minute, limit: rate.NewLimiter(perSecond, 2000)}
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
		body := watch{stall: time.Minute, limit: rate.NewLimiter(1, 1000)}.body(ctx, &http.Response{StatusCode: 200, Body: r})
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

// answerAfter answers after a while.
type answerAfter time.Duration

func (d answerAfter) RoundTrip(req *http.Request) (*http.Response, error) {
	httptrace.ContextClientTrace(req.Context()).WroteRequest(httptrace.WroteRequestInfo{})
	t := time.NewTimer(time.Duration(d))
	defer t.Stop()
	select {
	case <-t.C:
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req}, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// An answer may take long while a host isn't known, and less when it was seen
// to be fast; a host that has become slow gets its time again (G54).
func TestPatienceForAnAnswerIsLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := Options{FirstByte: 2 * time.Minute, Stall: 15 * time.Second, Retry: retry.Policy{Patience: time.Hour}}
		activity := new(retry.Activity)
		h := newHabits(options, activity)
		u := &url.URL{Scheme: "http", Host: "h", Path: "/v2/x/blobs/y"}
		ask := func(answer time.Duration) (time.Duration, error) {
			start := time.Now()
			resp, err := (&timely{answerAfter(answer), h}).RoundTrip(&http.Request{Method: "GET", URL: u, Header: http.Header{}})
			if err == nil {
				resp.Body.Close()
			}
			return time.Since(start), err
		}
		for i, c := range []struct {
			answer, took time.Duration
			fails        bool
		}{
			{119 * time.Second, 119 * time.Second, false}, // unknown: long
			{121 * time.Second, 120 * time.Second, true},
		} {
			if took, err := ask(c.answer); took != c.took || (err != nil) != c.fails || c.fails && !errors.Is(err, errNoAnswer) {
				t.Errorf("%d: %v after %v", i, err, took)
			}
		}
		h = newHabits(options, activity)
		for range 10 {
			if _, err := ask(100 * time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []time.Duration{15 * time.Second, time.Minute, 2 * time.Minute, 2 * time.Minute} {
			if took, err := ask(time.Hour); took != want || !errors.Is(err, errNoAnswer) {
				t.Errorf("known to be fast, miss %d: %v after %v, want %v", i, err, took, want)
			}
		}
		if took, err := ask(90 * time.Second); took != 90*time.Second || err != nil {
			t.Errorf("slow now: %v after %v", err, took)
		}
		if took, err := ask(100 * time.Second); took != 100*time.Second || err != nil {
			t.Errorf("and slow again: %v after %v", err, took)
		}
		// While others move, a host that is known to be fast has seconds.
		h = newHabits(options, activity)
		for range 10 {
			if _, err := ask(100 * time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		time.AfterFunc(time.Second, activity.Beat)
		if took, err := ask(time.Hour); took != 3*time.Second || !errors.Is(err, errNoAnswer) {
			t.Errorf("while others moved: %v after %v, want 3s", err, took)
		}
		time.AfterFunc(time.Second, activity.Beat)
		if took, err := ask(40 * time.Second); took != 40*time.Second || err != nil {
			t.Errorf("asked again: %v after %v", err, took)
		}
	})
}
