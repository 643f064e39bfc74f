// Package siege attacks drayage serve in all the ways that it must stand at once, beside clients
// that mean well: `make bench` measures what those notice, and a test holds that none is failed.
//
// Attackers come from addresses of their own, 127.1.0.0/16, so that what bounds an address bounds
// them and not everybody.
package siege

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Target is a mirror under siege.
type Target struct {
	Host string // HOST:PORT, that it listens at
	// Upstream is the hostile registry's name, from which the mirror pulls through.
	Upstream string
	// User and Password are those of an attacker who has been let in.
	User, Password string
	// Secure is HOST:PORT where the same store is served over HTTPS; "" is nowhere.
	Secure string
	// Fresh are blobs that honest clients ask for, and that the hostile registry has, too.
	Fresh []digest.Digest
	// EditPasswords edits the file of passwords, in which honest clients and attackers stay.
	EditPasswords func(n int)
}

// attack is one way to attack. It goes on until ctx is done.
type attack struct {
	name string
	many int // attackers, each with an address of its own
	run  func(ctx context.Context, a *attacker)

	secure bool // it takes HTTPS
}

// Lay lays siege until ctx is done, and waits until all attackers have left. It returns what each
// way to attack got: how many answers by status, where 0 is none.
func Lay(ctx context.Context, t Target) map[string]map[int]int {
	var working sync.WaitGroup
	var mu sync.Mutex
	out := make(map[string]map[int]int)
	address := byte(0)
	for _, k := range attacks() {
		if k.secure && t.Secure == "" {
			continue
		}
		counts := make(map[int]int)
		out[k.name] = counts
		for range k.many {
			address++
			a := &attacker{target: t, from: net.IPv4(127, 1, 0, address), count: func(status int) {
				mu.Lock()
				defer mu.Unlock()
				counts[status]++
			}}
			a.client = &http.Client{Transport: &http.Transport{DialContext: a.dial, MaxIdleConnsPerHost: 16}, Timeout: patience}
			a.secure = &http.Client{Transport: overHTTP2(a.dial), Timeout: patience}
			working.Go(func() {
				defer a.client.CloseIdleConnections()
				defer a.secure.CloseIdleConnections()
				k.run(ctx, a)
			})
		}
	}
	working.Wait()
	return out
}

// patience is how long an attacker waits for an answer.
const patience = 20 * time.Second

// attacker is a client who means ill, at an address.
type attacker struct {
	target Target
	from   net.IP
	client *http.Client
	secure *http.Client // for HTTPS, over HTTP/2
	count  func(status int)
}

func (a *attacker) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: a.from}, Timeout: patience}
	return d.DialContext(ctx, network, address)
}

// get asks for a path of the mirror, and reads of the answer what it has in most bytes; -1 is all.
func (a *attacker) get(ctx context.Context, path string, password string, most int64, headers ...string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.target.Host+path, nil)
	if err != nil {
		panic(err) // a fault of this package
	}
	if password != "" {
		req.SetBasicAuth(a.target.User, password)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := a.client.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			a.count(0)
		}
		return
	}
	defer resp.Body.Close()
	a.count(resp.StatusCode)
	if most < 0 {
		_, _ = io.Copy(io.Discard, resp.Body) // however it ends
	} else {
		_, _ = io.CopyN(io.Discard, resp.Body, most)
	}
}

// of is the path of something of a repository of the hostile registry.
func (a *attacker) of(repo, rest string) string {
	return fmt.Sprintf("/v2/%s/%s/%s", a.target.Upstream, repo, rest)
}

// each calls f again and again, with its number, with a pause between.
func each(ctx context.Context, pause time.Duration, f func(n int)) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		f(n)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
