// Package latency remembers how long hosts take to begin a response, so that a dead connection is
// noticed early and a slow cache is left its time. Transport is the http.RoundTripper that ends
// requests whose response doesn't begin in the time that a History gives them.
package latency

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"drayage/engine/internal/retry"
	"drayage/engine/registry/internal/response"
)

// errNoAnswer ends a request whose answer didn't begin in time.
var errNoAnswer = errors.New("no response in time")

// History remembers how long hosts take to begin an answer, so that a dead
// connection is noticed early and a slow cache is left its time. Blobs are apart
// from the rest: caches may have to fetch them first (G54).
type History struct {
	long     time.Duration // for whom nothing is known of
	least    time.Duration
	activity *retry.Activity

	mu    sync.Mutex
	hosts map[string]*host
}

type host struct {
	answers int
	slowest time.Duration // of the latest answers
	missed  int           // answers in a row that didn't come in time
}

// New makes a history. A host of which nothing is known has unknown to begin a response with a blob,
// and none has less than least unless it was seen to be fast. activity tells when anything last arrived.
func New(unknown, least time.Duration, activity *retry.Activity) *History {
	return &History{long: unknown, least: min(least, unknown), activity: activity, hosts: make(map[string]*host)}
}

// blobsKey ends the key of a host's history with blobs.
const blobsKey = " blobs"

func keyOf(req *http.Request) string {
	if strings.Contains(req.URL.Path, "/blobs/") || req.Header.Get("Range") != "" {
		return req.URL.Host + blobsKey
	}
	return req.URL.Host
}

func (h *History) of(key string) *host {
	if h.hosts[key] == nil {
		h.hosts[key] = &host{}
	}
	return h.hosts[key]
}

// patience is how long to wait for an answer to a request that was written at
// some time. A host that is known to be fast, and keeps sending elsewhere, has
// least.
func (h *History) patience(key string, wrote time.Time) time.Duration {
	const (
		known = 4  // answers, from which on a host is known
		times = 10 // longer than ever seen is too long
		parts = 5  // of the silence that a body may have is what counts as hushed
		moved = 250 * time.Millisecond
	)
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.of(key)
	if b.answers < known {
		if !strings.HasSuffix(key, blobsKey) {
			return min(h.long, 2*h.least) // only blobs may have to be fetched first
		}
		return h.long
	}
	if b.missed == 0 && h.activity.Last().Sub(wrote) > moved {
		return min(h.least, max(h.least/parts, times*b.slowest))
	}
	d := max(h.least, times*b.slowest)
	for range b.missed { // it was more than impatience
		d *= 4
		if d >= h.long {
			return h.long
		}
	}
	return min(d, h.long)
}

// answered records how long an answer took to begin.
func (h *History) answered(key string, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.of(key)
	b.answers++
	b.missed = 0
	b.slowest = max(took, b.slowest-b.slowest/64) // forgotten with time
}

func (h *History) miss(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(key).missed++
}

// Transport ends requests whose answer doesn't begin in time. The clock starts
// when the request is written: waiting for a connection, and making one, have
// clocks of their own.
type Transport struct {
	Next    http.RoundTripper
	History *History
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	key := keyOf(req)
	const again = time.Second // the longest that is waited for before patience is asked anew
	ctx, cancel := context.WithCancelCause(req.Context())
	var mu sync.Mutex
	var timer *time.Timer
	var wrote time.Time
	done := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) {
		mu.Lock()
		defer mu.Unlock()
		if timer != nil || done {
			return // net/http tries again by itself when a connection had gone
		}
		wrote = time.Now()
		timer = time.AfterFunc(again, func() {
			mu.Lock()
			defer mu.Unlock()
			waited := time.Since(wrote)
			left := t.History.patience(key, wrote) - waited
			switch {
			case done:
			case left <= 0:
				cancel(fmt.Errorf("%w (%v)", errNoAnswer, waited.Round(time.Millisecond)))
			default:
				timer.Reset(min(left, again))
			}
		})
	}})
	resp, err := t.Next.RoundTrip(req.WithContext(ctx))
	mu.Lock()
	done = true
	if timer != nil {
		timer.Stop()
	}
	took := time.Since(wrote)
	mu.Unlock()
	if err != nil {
		if why := context.Cause(ctx); errors.Is(why, errNoAnswer) {
			t.History.miss(key)
			err = why
		}
		cancel(nil)
		return nil, err
	}
	if !wrote.IsZero() {
		t.History.answered(key, took)
	}
	resp.Body = response.Cancelling(resp.Body, cancel)
	return resp, nil
}

// Learn records how long a host took to begin to send blobs in an earlier run.
func (h *History) Learn(host string, firstByte time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.of(host + blobsKey)
	b.slowest = max(b.slowest, firstByte)
}

// Learned is what to pass to Learn in a later run, for each host that has answered.
func (h *History) Learned() map[string]time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[string]time.Duration)
	for key, b := range h.hosts {
		if host, blobs := strings.CutSuffix(key, blobsKey); blobs && b.answers > 0 {
			out[host] = b.slowest
		}
	}
	return out
}
