package latency

import (
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/retry"
)

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
		activity := new(retry.Activity)
		h := New(2*time.Minute, 15*time.Second, activity)
		u := &url.URL{Scheme: "http", Host: "h", Path: "/v2/x/blobs/y"}
		ask := func(answer time.Duration) (time.Duration, error) {
			start := time.Now()
			resp, err := (&Transport{answerAfter(answer), h}).RoundTrip(&http.Request{Method: "GET", URL: u, Header: http.Header{}})
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
		h = New(2*time.Minute, 15*time.Second, activity)
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
		h = New(2*time.Minute, 15*time.Second, activity)
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
