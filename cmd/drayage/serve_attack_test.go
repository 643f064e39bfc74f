//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"drayage/engine/registry/registrytest"

	"golang.org/x/crypto/bcrypt"
)

// Attackers at many addresses have all the connections that they may, and do with them whatever
// holds them; honest clients beside them are answered, each time.
func TestServeUnderAttack(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	dir := t.TempDir()
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 24<<20))
	name := s.Push("team/app", "1", img)
	if status, out := runProgram(t, dir, "pull", "-pnone", "--platform", "linux/amd64", "--store", filepath.Join(dir, "store"), name); status != 0 {
		t.Fatal(out)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, []byte("ann:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const all, perClient, addresses = 96, 16, 8
	d := startServe(t, dir, "--htpasswd", users, "--max-connections", fmt.Sprint(all), "--max-per-client", fmt.Sprint(perClient))
	blob := "/v2/" + s.Host() + "/team/app/blobs/" + img.Layers[0].Digest.String()
	manifest := "/v2/" + s.Host() + "/team/app/manifests/1"
	const ann = "Authorization: Basic YW5uOnMzY3JldA==\r\n"
	attacks := []string{
		"", "GET /v2/", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n",
		"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "POST /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\nExpect: x\r\n\r\n",
		"GET " + blob + " HTTP/1.1\r\nHost: localhost\r\n" + ann + "\r\n", // and doesn't read it
		strings.Repeat("GET "+manifest+" HTTP/1.1\r\nHost: localhost\r\n"+ann+"\r\n", 20),
		"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YW5uOndyb25n\r\n\r\n",
		"GET /events HTTP/1.1\r\nHost: localhost\r\n" + ann + "\r\n",
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var attackers sync.WaitGroup
	var made atomic.Int32
	full := make(chan struct{}) // when attackers have had all places once
	for i := range addresses {
		from := &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i+1))}
		for j := range perClient {
			attackers.Go(func() {
				for n := i + j; ctx.Err() == nil; n++ {
					c, err := (&net.Dialer{LocalAddr: from}).DialContext(ctx, "tcp", d.host)
					if err != nil {
						continue
					}
					_, _ = io.WriteString(c, attacks[n%len(attacks)]) // fails when it is closed by now
					if made.Add(1) == addresses*perClient {
						close(full)
					}
					// Until it is closed by the server; nothing is read of what it sends, for some.
					end := context.AfterFunc(ctx, func() { c.Close() })
					if n%2 == 0 {
						_, _ = io.Copy(io.Discard, c)
					} else {
						gone(ctx, c)
					}
					end()
					c.Close()
				}
			})
		}
	}
	<-full
	var honest sync.WaitGroup
	for range 8 {
		honest.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			defer client.CloseIdleConnections()
			for i := range 30 {
				path := manifest
				if i%10 == 9 {
					path = "/healthz"
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.host+path, nil)
				if err != nil {
					t.Error(err)
					return
				}
				req.SetBasicAuth("ann", "s3cret")
				resp, err := client.Do(req)
				const tries = 10 // of a client that is told to come back: all of this may be on one processor
				for n := 1; err == nil && resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "" && n < tries; n++ {
					resp.Body.Close()
					resp, err = client.Do(req)
				}
				if err != nil {
					t.Errorf("%s: %v", path, err)
					continue
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %d, %v", path, resp.StatusCode, err)
				}
				if i%5 == 4 {
					client.CloseIdleConnections()
				}
			}
		})
	}
	honest.Wait()
	stop()
	attackers.Wait()
	if status, out := d.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("%d: %s", status, out)
	}
}

// gone waits until a connection is closed by the other end, without reading from it.
func gone(ctx context.Context, c net.Conn) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // again whenever something has happened to it
		if ctx.Err() != nil {
			return true
		}
		n, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		return err != nil || n != 0
	})
}
