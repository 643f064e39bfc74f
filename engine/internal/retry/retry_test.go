package retry_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/retry"
)

func TestStatusRetriesOnlyPassingStates(t *testing.T) {
	for code, want := range map[int]bool{
		200: false, 206: false, 301: false, 400: false, 401: false, 403: false, 404: false, 410: false, 416: false,
		402: false, 407: false, 451: false, 499: true, 505: false, 507: true, 511: false, 520: true, 524: true, 530: true, 599: true, 600: false,
		408: true, 425: true, 429: true, 500: true, 501: false, 502: true, 503: true, 504: true,
	} {
		if got := retry.Status(code); got != want {
			t.Errorf("Status(%d) = %v, want %v", code, got, want)
		}
	}
}

func TestErrorTellsPassingFromLasting(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{context.Canceled, false},
		{fmt.Errorf("get: %w", syscall.ECONNRESET), true},
		{syscall.ECONNREFUSED, true},
		{io.ErrUnexpectedEOF, true},
		{&net.DNSError{IsNotFound: true}, false},
		{&net.DNSError{IsTimeout: true}, true},
		{&net.DNSError{IsNotFound: true, IsTemporary: true}, true},
		{fmt.Errorf("get: %w", x509.UnknownAuthorityError{}), false},
		{x509.HostnameError{}, false},
		{syscall.ENOSPC, false},
		{fmt.Errorf("proxy: %w", retry.ErrLasting), false},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}, false},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: internal error")}, true},
	} {
		if got := retry.Error(c.err); got != c.want {
			t.Errorf("Error(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	b := retry.Backoff{Min: 100 * time.Millisecond, Max: time.Second}
	for failed, limit := range map[int]time.Duration{
		1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 3: 400 * time.Millisecond, 4: 800 * time.Millisecond,
		5: time.Second, 60: time.Second, 1000: time.Second,
	} {
		for range 50 {
			if d := b.Delay(failed); d < limit/2 || d > limit {
				t.Fatalf("Delay(%d) = %v, want between %v and %v", failed, d, limit/2, limit)
			}
		}
	}
}

func TestPolicy(t *testing.T) {
	p := retry.Policy{Tries: 3, Patience: time.Minute, Backoff: retry.Backoff{Min: time.Second, Max: time.Second}}
	now := time.Now()
	for _, c := range []struct {
		name  string
		f     retry.Failure
		again bool
		least time.Duration
	}{
		{"a host never reached, at first", retry.Failure{Tries: 2, Err: syscall.ECONNREFUSED}, true, 0},
		{"a host never reached, at last", retry.Failure{Tries: 3, Err: syscall.ECONNREFUSED}, false, 0},
		{"a host that was there", retry.Failure{Tries: 30, Since: 50 * time.Second, Err: syscall.ECONNREFUSED, Reached: true}, true, 0},
		{"a host that was there, out of patience", retry.Failure{Tries: 30, Since: 61 * time.Second, Err: syscall.ECONNREFUSED, Reached: true}, false, 0},
		{"a certificate", retry.Failure{Tries: 1, Err: x509.UnknownAuthorityError{}, Reached: true}, false, 0},
		{"404", retry.Failure{Tries: 1, Status: 404}, false, 0},
		{"500", retry.Failure{Tries: 1, Status: 500}, true, 0},
		{"a storm of 502", retry.Failure{Tries: 30, Since: 50 * time.Second, Status: 502}, true, 0},
		{"502 out of patience", retry.Failure{Tries: 30, Since: 61 * time.Second, Status: 502}, false, 0},
		{"a line that is down from the start", retry.Failure{Tries: 9, Since: 50 * time.Second, Err: syscall.EHOSTUNREACH}, true, 0},
		{"G35 a quota over hours, at first", retry.Failure{Tries: 1, Status: 429, Throttled: true, Spent: true, RetryAfter: "30"}, true, 30 * time.Second},
		{"G35 a quota over hours, again", retry.Failure{Tries: 2, Status: 429, Throttled: true, Spent: true, RetryAfter: "30"}, false, 0},
		{"503 with a time", retry.Failure{Tries: 9, Status: 503, RetryAfter: "7"}, true, 7 * time.Second},
		{"429 with too long a time", retry.Failure{Tries: 1, Status: 429, Throttled: true, RetryAfter: "3600"}, false, 0},
		{"503 until the end of time", retry.Failure{Tries: 1, Since: time.Second, Status: 503, RetryAfter: "Fri, 31 Dec 9999 23:59:59 GMT"}, false, 0},
		{"503 for longer than all time", retry.Failure{Tries: 1, Since: time.Second, Status: 503, RetryAfter: "99999999999"}, false, 0},
		{"429 without a time", retry.Failure{Tries: 1, Status: 429, Throttled: true}, true, time.Second},
		{"403 that means 429", retry.Failure{Tries: 1, Status: 403, Throttled: true}, true, time.Second},
	} {
		wait, again := p.Next(c.f, now)
		if again != c.again || again && wait < c.least {
			t.Errorf("%s: again %v after %v; want %v after at least %v", c.name, again, wait, c.again, c.least)
		}
	}
}

func TestAfterReadsEveryFormSeen(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"1": time.Second, "60": time.Minute, " 7 ": 7 * time.Second, "0": time.Second, "1.5": 1500 * time.Millisecond,
		"1.16ms":                        time.Second, // G36
		"2m":                            2 * time.Minute,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute,
		"Fri, 02 Jan 2026 03:00:00 GMT": time.Second, // in the past
		"999999999":                     999999999 * time.Second, "1000000000": 1000000000 * time.Second,
		"99999999999": math.MaxInt64, "9223372036.9": math.MaxInt64, "1e300": math.MaxInt64, strings.Repeat("9", 400): math.MaxInt64,
	} {
		if got, ok := retry.After(in, now); !ok || got != want {
			t.Errorf("After(%q) = %v, %v; want %v", in, got, ok, want)
		}
	}
	for _, in := range []string{"", "soon", "-1", "NaN", "Inf", "-1e999", "-5s"} {
		if got, ok := retry.After(in, now); ok {
			t.Errorf("After(%q) = %v, want none", in, got)
		}
	}
}

func TestSleepEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		start := time.Now()
		if err := retry.Sleep(ctx, time.Hour); !errors.Is(err, cause) {
			t.Errorf("Sleep = %v, want %v", err, cause)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("Sleep took %v, want 1s", took)
		}
	})
}

func FuzzAfter(f *testing.F) {
	for _, s := range []string{"1", "1.16ms", "Fri, 02 Jan 2026 03:05:05 GMT", "9999999999999999999"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := retry.After(s, now); ok && d < time.Second {
			t.Errorf("After(%q) = %v, less than a second", s, d)
		}
	})
}

// A process that is stopped, or whose machine sleeps, gets its patience back: what is seen
// is a clock that jumps between two looks at it.
func TestTimeInWhichNothingRanDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		activity := new(retry.Activity)
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() { defer close(done); activity.Keep(stop) }()
		budget := retry.NewBudget(retry.Policy{Patience: 10 * time.Second, Backoff: retry.Backoff{Min: time.Millisecond, Max: time.Millisecond}}, activity, nil)
		fail := func() bool {
			_, again := budget.Next(retry.Failure{Err: io.ErrUnexpectedEOF, Reached: true})
			return again
		}
		time.Sleep(5 * time.Second)
		if !fail() {
			t.Error("patience ended after half of it")
		}
		time.Sleep(6 * time.Second)
		if fail() {
			t.Error("patience did not end after all of it")
		}
		close(stop)
		<-done

		// From here on nobody looks at the clock, as when the process is stopped.
		other := new(retry.Activity)
		stop = make(chan struct{})
		go other.Keep(stop)
		synctest.Wait()
		before := other.Awake()
		retry.Stopped(other, time.Hour)
		if ran := other.Awake() - before; ran > time.Second {
			t.Errorf("an hour in which nothing ran counts as %v", ran)
		}
		close(stop)
		synctest.Wait()
	})
}
