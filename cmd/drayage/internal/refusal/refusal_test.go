package refusal

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drayage/cmd/drayage/internal/client"
)

func from(address string) client.Address { return client.AddressOf(net.JoinHostPort(address, "1")) }

// A flood of refusals is some lines a second, with how many there were.
func TestFloodOfRefusalsIsAFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := NewLog(slog.New(slog.NewTextHandler(&out, nil)), nil)
		long := strings.Repeat("\x1b[31mx\n", 2000)
		for range 3 {
			for range 1000 {
				r.Note(Refusal{Why: "password", From: from("10.0.0.1"), Status: 401, User: long, Method: long, Host: long, Path: long, Agent: long})
			}
			time.Sleep(2 * time.Second)
		}
		r.Note(Refusal{Why: "rate", Status: 429})
		for range 20 {
			r.Note(Refusal{Why: "slow"})
		}
		r.Close()
		text := out.String()
		if n := strings.Count(text, "\n"); n > 3*11+1+11 {
			t.Errorf("%d lines", n)
		}
		for _, want := range []string{"why=password more=990", "why=rate", "why=slow more=10", "client=10.0.0.1"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not there", want)
			}
		}
		for l := range strings.Lines(text) {
			const longest = 8 << 10
			if len(l) > longest || strings.Contains(l, "\x1b") {
				t.Fatalf("a line of %d bytes: %.300q", len(l), l)
			}
		}
	})
}

// Without a log, whoever runs the server has a line about each kind, and not again for ten seconds;
// nobody who is refused waits for it.
func TestRefusalsAreToldWithoutALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		began := time.Now()
		reading := make(chan struct{}) // standard error is read from when it is closed
		r := NewLog(nil, func(message string) {
			<-reading
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprintf("%s %s", time.Since(began), message))
		})
		r.Note(Refusal{Why: WhyNoLogin, From: from("10.0.0.9"), Status: 401}) // as each client begins
		r.Note(Refusal{Why: "password", From: from("10.0.0.1"), Status: 401, User: "\x1b[31m", Path: "/v2/\n"})
		synctest.Wait()
		for range 1000 {
			r.Note(Refusal{Why: "password", From: from("10.0.0.2"), Status: 401})
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("refusals wait for %s", took)
		}
		close(reading)
		time.Sleep(12 * time.Second)
		r.Note(Refusal{Why: "password", From: from("10.0.0.3")})
		time.Sleep(time.Minute) // in which it is forgotten
		r.Note(Refusal{Why: "password", From: from("10.0.0.4")})
		r.Note(Refusal{Why: WhyHTTP2})
		synctest.Wait()
		r.Note(Refusal{Why: "password", From: from("10.0.0.5")})
		r.Close()
		r.Note(Refusal{Why: "password", From: from("10.0.0.6")})
		slices.Sort(told)
		want := []string{
			"0s refused a request: wrong user name or password (password, latest client 10.0.0.1)",
			"10s refused 1000 requests: wrong user name or password (password, latest client 10.0.0.2)",
			"1m12s refused a request: HTTP/2 protocol error (http2)",
			"1m12s refused a request: wrong user name or password (password, latest client 10.0.0.4)",
			"1m12s refused a request: wrong user name or password (password, latest client 10.0.0.5)",
			"20s refused a request: wrong user name or password (password, latest client 10.0.0.3)",
		}
		if !slices.Equal(told, want) {
			t.Errorf("%q\nwant %q", told, want)
		}
	})
}

// The documentation lists each kind of refusal.
func TestKindsOfRefusalsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n| `why` |")
	table, _, _ = strings.Cut(table, "\n\n")
	for why := range whys {
		if !strings.Contains(table, "`"+why+"`") {
			t.Errorf("docs/serve.md doesn't have %s", why)
		}
	}
}
