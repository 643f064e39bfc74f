//go:build unix

package main

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drayage/engine/chaos/chaostest"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

func TestWorldHTTP(t *testing.T) {
	t.Run("H1", func(t *testing.T) {
		for _, part := range []string{"/manifests/", "/blobs/"} {
			for _, status := range []int{520, 521, 522, 523, 524, 527, 530, 499} {
				w := newWorld(t)
				w.reg.Break(part, 1, chaostest.Status(status))
				w.want(w.pull(w.image), 0)
			}
			for _, status := range []int{501, 505} {
				w := newWorld(t)
				w.reg.Break(part, registrytest.Always, chaostest.Status(status))
				w.want(w.pull(w.image), 5)
				if n := w.reg.Count(part); n > 4 {
					t.Errorf("%d was asked for %d times", status, n)
				}
			}
			for _, status := range []int{402, 451} {
				w := newWorld(t)
				w.reg.Break(part, registrytest.Always, chaostest.Status(status))
				w.want(w.pull(w.image), 3)
			}
		}
	})

	t.Run("H2", func(t *testing.T) {
		for _, value := range []string{
			"http://ann:s3cr%t@proxy:3128", "http://ann:s3c#r%t@proxy:3128", "http://ann:s3cr/t@proxy:3128", "http://ann:12/s3cr@proxy:3128", "http://ann:12?s3cr@proxy",
			"http://ann:12#s3cr@proxy", "ann:s3cr%t@proxy:3128", "ftp://ann:s3crt@proxy", "http://", "http://proxy:s3cr", "://s3cr",
		} {
			for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY"} {
				w := newWorld(t)
				w.set(name + "=" + value)
				for _, verb := range [][]string{{"pull", w.image}, {"inspect", w.image}, {"doctor", w.image}, {"pull", "-p", "json", w.image}} {
					w.want(w.run(verb...), 2, name, "!s3c", "!"+value+" ")
				}
				if name == "HTTPS_PROXY" && value == "http://" {
					w.want(w.run("bench", w.image, "--duration", "1s"), 2, name)
					w.want(w.runIn("x", "login", "-u", "x", "--password-stdin", w.reg.Host()), 2, name)
					w.want(w.run("serve", "--listen", "127.0.0.1:0", "--pull-through", "docker.io"), 2, name)
				}
			}
		}
		w := newWorld(t)
		w.set("HTTPS_PROXY=proxy.example:3128", "HTTP_PROXY=http://ann:p%25ss@proxy.example:3128/")
		w.want(w.pull(w.image), 0)
	})

	t.Run("H3", func(t *testing.T) {
		for _, c := range []struct{ status, want int }{{407, 3}, {403, 3}, {405, 3}, {502, 0}, {503, 0}} {
			w := newWorld(t)
			secure := registrytest.NewTLS()
			t.Cleanup(secure.Close)
			secure.Push("team/app", "1", smallImage())
			var asked atomic.Int32
			proxy := serveHTTP(t, func(rw http.ResponseWriter, r *http.Request) {
				if n := asked.Add(1); c.want != 0 || n < 3 {
					rw.WriteHeader(c.status)
					return
				}
				tunnel(rw, secure.Host())
			})
			address := strings.TrimPrefix(proxy.URL, "http://")
			w.set("HTTPS_PROXY=http://ann:s3cr3t@"+address, "NO_PROXY=nothing")
			o := w.pull("--tls-skip-verify", "registry.example/team/app:1")
			w.want(o, c.want, "!s3cr3t")
			if c.want != 0 {
				w.want(o, c.want, address, "registry.example:443", "!retrying in")
				if n := asked.Load(); n > 2 {
					t.Errorf("%d: the proxy was asked %d times", c.status, n)
				}
			}
		}
		// Plain HTTP goes to the proxy whole.
		w := newWorld(t)
		proxy := serveHTTP(t, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(407) })
		w.set("HTTP_PROXY="+proxy.URL, "NO_PROXY=nothing")
		w.want(w.pull("-I", "registry.example/team/app:1"), 3, strings.TrimPrefix(proxy.URL, "http://"))
	})

	t.Run("H3 what a proxy says itself", func(t *testing.T) {
		for header, names := range map[string]bool{"X-Squid-Error": true, "Proxy-Status": true, "X-Registry": false} {
			w := newWorld(t)
			proxy := serveHTTP(t, func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set(header, "ERR_ACCESS_DENIED 0")
				rw.WriteHeader(403)
			})
			address := strings.TrimPrefix(proxy.URL, "http://")
			w.set("HTTP_PROXY="+proxy.URL, "NO_PROXY=nothing")
			said := "proxy " + address + " does not allow registry.example"
			if !names {
				said = "!" + address
			}
			w.want(w.pull("-I", "registry.example/team/app:1"), 3, said)
		}
	})

	t.Run("H3 a proxy that echoes its password", func(t *testing.T) {
		for _, password := range []string{"hunter2", "hunter2%2F%2B%25"} {
			for _, name := range []string{"HTTP_PROXY", "http_proxy"} {
				w := newWorld(t)
				proxy := serveHTTP(t, func(rw http.ResponseWriter, r *http.Request) {
					sent := r.Header.Get("Proxy-Authorization")
					plain, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(sent, "Basic "))
					rw.WriteHeader(403)
					fmt.Fprintf(rw, `{"errors":[{"message":"refused: %s %s %s"}]}`, sent, plain, password)
				})
				w.set(name+"=http://ann:"+password+"@"+strings.TrimPrefix(proxy.URL, "http://"), "NO_PROXY=nothing")
				o := w.pull("-D", "-D", "-I", "registry.example/team/app:1")
				w.want(o, 3, "refused: Basic", "!hunter2", "!"+b64("ann:hunter2")[:10])
			}
		}
	})

	t.Run("TLS servers that hang up on plain HTTP", func(t *testing.T) {
		w := newWorld(t)
		secure := registrytest.NewTLS()
		t.Cleanup(secure.Close)
		secure.Push("team/app", "1", smallImage())
		front := serveBoth(t, secure.Host(), func(c net.Conn) { c.Close() })
		ca := w.write("ca.pem", pemOf(t, secure))
		w.want(w.pull("--ca-cert", ca, front+"/team/app:1"), 0, "!retrying in")
		w.want(w.pull("--ca-cert", ca, "-I", front+"/team/app:1"), 0, "!retrying in")
	})

	t.Run("TLS alerts", func(t *testing.T) {
		w := newWorld(t)
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = quietLog()
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
		s.StartTLS()
		t.Cleanup(s.Close)
		o := w.pull("--tls-skip-verify", strings.TrimPrefix(s.URL, "https://")+"/team/app:1")
		w.want(o, 3, "--cert", "!retrying in")
	})

	t.Run("H8 bodies that can't be decoded", func(t *testing.T) {
		for _, encoding := range []string{"br", "gzip", "zstd, gzip", "deflate"} {
			w := newWorld(t)
			w.reg.Break("/manifests/", registrytest.Always, between(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
				rw.Header().Set("Content-Encoding", encoding)
				fmt.Fprint(rw, "\x0b\x02\x80no manifest\x03")
			}))
			w.want(w.pull(w.image), 1, "!retrying in")
			if n := w.reg.Count("/manifests/"); n > 2 {
				t.Errorf("%s: asked for %d times", encoding, n)
			}
		}
	})

	t.Run("H8 encodings that plain JSON is labelled with", func(t *testing.T) {
		for _, encoding := range []string{"utf-8", "aws-chunked", "binary", "br", "gzip", "none"} {
			for _, part := range []string{"/manifests/", "/auth/token"} {
				w := newWorld(t)
				w.reg.RequireToken("", "")
				w.reg.Break(part, registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
					rw.Header().Set("Content-Encoding", encoding)
					next.ServeHTTP(rw, r)
				}))
				w.want(w.pull(w.image), 0, "!warning", "!retrying in")
			}
		}
	})

	t.Run("H8 bodies that never end", func(t *testing.T) {
		var empty bytes.Buffer
		if err := gzip.NewWriter(&empty).Close(); err != nil {
			t.Fatal(err)
		}
		endless := bytes.Repeat(empty.Bytes(), 1000)
		for _, part := range []string{"/manifests/", "/auth/token", "/v2/"} {
			w := newWorld(t)
			w.reg.RequireToken("", "")
			w.reg.Break(part, registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if part != "/auth/token" && r.Header.Get("Authorization") == "" {
					next.ServeHTTP(rw, r)
					return
				}
				rw.Header().Set("Content-Encoding", "gzip")
				if part == "/v2/" {
					rw.WriteHeader(http.StatusForbidden)
				}
				for {
					if _, err := rw.Write(endless); err != nil {
						return
					}
				}
			}))
			o := w.pull("--give-up-after", "1s", w.image) // it returns
			if o.status == 0 {
				t.Errorf("%s: status 0", part)
			}
		}
	})

	t.Run("H4", func(t *testing.T) {
		for _, status := range []int{404, 500, 501, 400, 405, 503, 401, 403} {
			w := newWorld(t)
			store := filepath.Join(w.home, "kept")
			w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Method == http.MethodHead {
					rw.WriteHeader(status)
					return
				}
				next.ServeHTTP(rw, r)
			})
			for range 2 { // the second asks whether the tag has moved
				w.want(w.run("pull", "--store", store, w.image), 0, "!retrying in")
			}
			w.want(w.run("inspect", "--store", store, w.image), 0)
			w.want(w.run("pull", "--store", store, "-n", w.image), 0)
			w.want(w.run("pull", "--store", store, "--lock", filepath.Join(w.home, "lock"), w.image), 0)
		}
	})

	t.Run("H4 connections that end", func(t *testing.T) {
		w := newWorld(t)
		store := filepath.Join(w.home, "kept")
		var heads atomic.Int32
		w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead {
				heads.Add(1)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(rw, r)
		})
		for range 2 {
			w.want(w.run("pull", "--store", store, w.image), 0, "!retrying in")
		}
		if n := heads.Load(); n < 1 || n > 4 { // plain HTTP is not known yet, and net/http may ask once more
			t.Errorf("%d times HEAD", n)
		}
	})

	t.Run("H4 too many requests", func(t *testing.T) {
		w := newWorld(t)
		store := filepath.Join(w.home, "kept")
		w.want(w.run("pull", "--store", store, w.image), 0)
		w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead {
				rw.WriteHeader(http.StatusTooManyRequests)
				return
			}
			next.ServeHTTP(rw, r)
		})
		w.want(w.run("pull", "--store", store, "--give-up-after", "1s", w.image), 8, "429")
	})

	t.Run("H5", func(t *testing.T) {
		for _, encoding := range []string{"gzip", "x-gzip", "deflate"} {
			for _, part := range []string{"/manifests/", "/auth/token", "/tags/", "errors"} {
				w := newWorld(t)
				w.reg.RequireToken("", "")
				var asked log
				squeeze := func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
					asked.add("%s", r.Header.Get("Accept-Encoding"))
					rec := httptest.NewRecorder()
					next.ServeHTTP(rec, r)
					for k, v := range rec.Header() {
						rw.Header()[k] = v
					}
					rw.Header().Del("Content-Length")
					if r.Method != http.MethodHead {
						rw.Header().Set("Content-Encoding", encoding)
					}
					rw.WriteHeader(rec.Code)
					var z io.WriteCloser = gzip.NewWriter(rw)
					if encoding == "deflate" {
						z = zlib.NewWriter(rw)
					}
					_, _ = z.Write(rec.Body.Bytes())
					_ = z.Close()
				}
				if part != "errors" {
					w.reg.Break(part, registrytest.Always, between(squeeze))
					w.want(w.pull(w.image), 0)
				} else {
					w.reg.Break("/manifests/none", registrytest.Always, between(squeeze))
					w.want(w.pull(strings.Replace(w.image, ":1", ":none", 1)), 4, "manifest unknown")
				}
				for _, a := range asked.all() {
					if a != "identity" {
						t.Errorf("%s: Accept-Encoding is %q", part, a)
					}
				}
			}
		}
	})

	t.Run("H6", func(t *testing.T) {
		for _, status := range []int{400, 403, 404, 422} {
			w := newWorld(t)
			var with, without atomic.Int32
			w.reg.Push("library/app", "1", smallImage())
			w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.URL.Query().Has("ns") {
					with.Add(1)
					rw.WriteHeader(status)
					return
				}
				without.Add(1)
				next.ServeHTTP(rw, r)
			})
			w.want(w.pull("--mirror", "docker.io=http://"+w.reg.Host(), "-j", "1", "app:1"), 0, "!warning")
			if with.Load() != 1 || without.Load() < 3 {
				t.Errorf("%d: %d requests with the hint and %d without", status, with.Load(), without.Load())
			}
		}
	})

	t.Run("H7", func(t *testing.T) {
		var got log
		target := newWorld(t)
		target.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			got.add("%v", r.Header)
			next.ServeHTTP(rw, r)
		})
		for _, part := range []string{"/manifests/", "/blobs/", "/referrers/", "/tags/"} {
			w := newWorld(t)
			w.reg.HaveReferrers()
			target.reg.HaveReferrers()
			w.write("hosts/"+w.reg.Host()+"/hosts.toml", fmt.Sprintf("server = \"http://%[1]s\"\n[header]\n  X-Api-Key = \"s3cr3t\"\n[host.\"http://%[1]s\".header]\n  Private-Token = [\"s3cr3t\"]\n", w.reg.Host()))
			w.reg.Break(part, registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
				http.Redirect(rw, r, "http://"+target.reg.Host()+r.URL.Path, http.StatusFound)
			}))
			w.want(w.pull("--hosts-dir", filepath.Join(w.home, "hosts"), "--referrers", w.image), 0)
			sent := false
			for _, r := range w.reg.Requests() {
				sent = sent || r.Header.Get("X-Api-Key") == "s3cr3t" || r.Header.Get("Private-Token") == "s3cr3t"
			}
			if !sent {
				t.Error("the header was not sent at all")
			}
		}
		if got.count("s3cr3t") > 0 || len(got.all()) == 0 {
			t.Errorf("the other host got %v", got.all())
		}
	})

	t.Run("H7 from plain HTTP to HTTPS at another port", func(t *testing.T) {
		for _, status := range []int{http.StatusTemporaryRedirect, http.StatusFound, http.StatusMovedPermanently} {
			for _, part := range []string{"/manifests/", "/blobs/", "/"} {
				w := newWorld(t)
				secure := registrytest.NewTLS()
				t.Cleanup(secure.Close)
				secure.Push("team/app", "1", smallImage())
				var got log
				secure.Break("", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
					got.add("%v", r.Header)
					next.ServeHTTP(rw, r)
				}))
				w.reg.RequireBasic("ann", "s3cr3t") // which the plain port asks for, and not the other
				w.reg.Break(part, registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
					if r.Header.Get("Authorization") == "" {
						next.ServeHTTP(rw, r)
						return
					}
					http.Redirect(rw, r, "https://"+secure.Host()+r.URL.RequestURI(), status)
				}))
				w.write(dockerFile, auths(w.reg.Host(), "ann:s3cr3t"))
				w.write("hosts/"+w.reg.Host()+"/hosts.toml", fmt.Sprintf("server = \"http://%s\"\n[header]\n  X-Api-Key = \"s3cr3t\"\n  Cookie = \"k=s3cr3t\"\n", w.reg.Host()))
				w.want(w.pull("--hosts-dir", filepath.Join(w.home, "hosts"), "--ca-cert", w.write("ca.pem", pemOf(t, secure)), w.image), 0)
				if got.count("s3cr3t")+got.count("Basic") > 0 || len(got.all()) == 0 {
					t.Errorf("%d: the other port got %v", status, got.all())
				}
			}
		}
	})

	t.Run("H8 many warnings", func(t *testing.T) {
		w := newWorld(t)
		var n atomic.Int32
		w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			var each []string
			for range 9 {
				each = append(each, fmt.Sprintf(`299 - "number %d."`, n.Add(1)))
			}
			rw.Header().Add("Warning", `299 - "one, and" "Wed, 25 Nov 2026 08:00:00 GMT", 110 a.example "Stale", 299 b.example:80 "two"`)
			rw.Header().Add("Warning", strings.Join(each, ", "))
			next.ServeHTTP(rw, r)
		})
		o := w.pull(w.image)
		w.want(o, 0, "message from "+w.reg.Host()+": one, and\n", ": two\n", "number 1.", "number 9.", "!Stale", "!2026 08", "further messages from")
		if n := strings.Count(o.err, "warning: "); n != 21 {
			t.Errorf("%d warnings:\n%s", n, o.err)
		}
	})

	t.Run("H8", func(t *testing.T) {
		w := newWorld(t)
		w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			rw.Header().Add("Warning", `299 - "this repository moves on 1 March, \"soon\""`)
			rw.Header().Add("Warning", `110 - "Response is Stale"`)
			rw.Header().Add("Warning", "299 - \"\u009b31m\u202e"+strings.Repeat("long ", 200)+`"`)
			next.ServeHTTP(rw, r)
		})
		o := w.pull(w.image)
		w.want(o, 0, `this repository moves on 1 March, "soon"`, "!Stale", "!\u009b", "!\u202e", "long long")
		if n := strings.Count(o.err, "1 March"); n != 1 {
			t.Errorf("it is told %d times", n)
		}
		for line := range strings.Lines(o.err) {
			if len(line) > 300 {
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	})

	t.Run("H9", func(t *testing.T) {
		w := newWorld(t)
		mirror := newWorld(t)
		mirror.reg.Break("/manifests/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			rw.Header().Set("Docker-Content-Digest", rec.Header().Get("Docker-Content-Digest"))
			rw.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
			if r.Method == http.MethodGet {
				fmt.Fprintf(rw, " %s\n", rec.Body) // the same to readers of JSON
			}
		}))
		want := smallImage().Descriptor.Digest.String()
		for _, name := range []string{w.image, strings.Replace(w.image, ":1", "@"+want, 1)} {
			lock := filepath.Join(w.home, digest.FromString(name).Encoded())
			o := w.pull("--mirror", w.reg.Host()+"=http://"+mirror.reg.Host(), "--lock", lock, name)
			w.want(o, 0, want, "warning: mirror "+mirror.reg.Host())
			if n := strings.Count(o.err, "warning"); n != 1 {
				t.Errorf("%d warnings: %s", n, o.err)
			}
			if raw, err := os.ReadFile(lock); err != nil || !strings.Contains(string(raw), want) {
				t.Errorf("the lock: %s, %v", raw, err)
			}
		}
	})

	t.Run("headers that Go refuses", func(t *testing.T) {
		for _, header := range []string{"Location: https://s3cr3t\x01.example/?sig=s3cr3t", "Set-Cookie s3cr3t", "X\x7fY: s3cr3t"} {
			w := newWorld(t)
			l := serveRaw(t, "HTTP/1.1 307 Temporary Redirect\r\n"+header+"\r\nContent-Length: 0\r\n\r\n")
			o := w.pull("-D", "-D", "--give-up-after", "1s", l+"/team/app:1")
			if o.status == 0 {
				t.Error("it succeeded")
			}
			w.want(o, o.status, "!s3cr3t")
		}
	})

	t.Run("redirect targets that can't be reached", func(t *testing.T) {
		w := newWorld(t)
		location, storage := w.reg.NewStorage()
		t.Cleanup(storage.Close)
		dead := "http://" + closedPort(t) + "/data/%s?X-Signature=x"
		for range 2 { // one for each layer
			w.reg.Break("/blobs/", 1, chaostest.Redirect(dead))
		}
		w.reg.Break("/blobs/", registrytest.Always, chaostest.Redirect(location))
		o := w.pull("-j", "1", w.image)
		w.want(o, 0, "!retrying in")
	})

	t.Run("clocks that differ", func(t *testing.T) {
		for _, off := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
			w := newWorld(t)
			location, storage := w.reg.NewStorage()
			t.Cleanup(storage.Close)
			w.reg.Break("/blobs/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
				now := time.Now().Add(off).UTC()
				rw.Header().Set("Date", now.Format(http.TimeFormat))
				to := fmt.Sprintf(location, filepath.Base(r.URL.Path)) + "&X-Amz-Date=" + now.Format("20060102T150405Z") + "&X-Amz-Expires=600"
				http.Redirect(rw, r, to, http.StatusTemporaryRedirect)
			}))
			o := w.pull("-j", "1", w.image)
			w.want(o, 0, "the clock of "+w.reg.Host())
			if n := strings.Count(o.err, "warning: the clock"); n != 1 {
				t.Errorf("%d warnings", n)
			}
			if n := w.reg.Count("/blobs/"); n != 3 {
				t.Errorf("%d requests for 3 blobs", n)
			}
		}
	})
}

func TestWorldTags(t *testing.T) {
	// What warm takes as the newest tag shows whether the list was read to its end.
	newest := func(t *testing.T, w *world, status int, texts ...string) {
		t.Helper()
		config := w.write("warm.yaml", "groups:\n- name: g\n  schedule: \"0 3 * * *\"\n  images:\n  - {repository: "+w.reg.Host()+"/team/app, tags: '*', newest: 1}\n")
		w.want(w.run("warm", "--once", "-c", config), status, texts...)
	}
	many := func(t *testing.T) *world {
		w := newWorld(t)
		for _, tag := range []string{"2", "3", "4", "5"} {
			w.reg.Push("team/app", tag, smallImage())
		}
		return w
	}
	var all = []string{"1", "2", "3", "4", "5"}
	page := func(rw http.ResponseWriter, tags []string) {
		fmt.Fprintf(rw, `{"name":"team/app","tags":["%s"]}`, strings.Join(tags, `","`))
	}

	t.Run("T1", func(t *testing.T) {
		w := many(t)
		w.reg.Break("/tags/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
			if n := r.FormValue("n"); len(n) > 2 {
				rw.WriteHeader(400)
				fmt.Fprint(rw, `{"errors":[{"code":"PAGINATION_NUMBER_INVALID","message":"invalid number of results requested"}]}`)
				return
			}
			page(rw, all)
		}))
		newest(t, w, 0)
		w.want(w.run("store", "ls"), 0, "team/app:5")
	})

	t.Run("T1 other statuses", func(t *testing.T) {
		for _, status := range []int{404, 405, 416, 422} {
			w := many(t)
			w.reg.Break("/tags/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
				if r.FormValue("n") != "" {
					rw.WriteHeader(status)
					fmt.Fprint(rw, `{"errors":[{"code":"PAGINATION_NUMBER_INVALID","message":"too many"}]}`)
					return
				}
				page(rw, all)
			}))
			newest(t, w, 0)
			w.want(w.run("store", "ls"), 0, "team/app:5")
		}
	})

	for name, link := range map[string]string{
		"T2 inside host":          `<http://registry.internal:5000/v2/team/app/tags/list?n=2&last=2>; rel="next"`,
		"T2 another path":         `<https://inside/api/docker/v2/team/app/tags/list?last=2>; rel="next"`,
		"T2 query alone":          `<?last=2>; rel="next"`,
		"T2 next_page":            `</v2/team/app/tags/list?next_page=2>; rel="next"`,
		"T2 prev and next in one": `</v2/team/app/tags/list?last=0>; rel="prev", </v2/team/app/tags/list?last=2>; rel="next"`,
		"T2 unquoted":             `</v2/team/app/tags/list?last=2>;rel=next`,
		"T2 single quotes":        `</v2/team/app/tags/list?last=2>; rel='next'`,
		"T2 rel*":                 `</v2/team/app/tags/list?last=2>; rel*=UTF-8''next`,
		"T2 rel* alone":           `</v2/team/app/tags/list?last=2>; rel*=next`,
		"T2 no rel":               `</v2/team/app/tags/list?last=2&n=2>`,
		"T2 no rel but a title":   `</v2/team/app/tags/list?last=2>; title='a, b'`,
		"T2 other parameters":     `</v2/team/app/tags/list?last=2>; title="a, b; rel=prev"; rel="start next"`,
	} {
		t.Run(name, func(t *testing.T) {
			w := many(t)
			w.reg.Break("/tags/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
				if r.FormValue("last") == "2" || r.FormValue("next_page") == "2" {
					page(rw, all[2:])
					return
				}
				rw.Header().Set("Link", link)
				page(rw, all[:2])
			}))
			newest(t, w, 0)
			w.want(w.run("store", "ls"), 0, "team/app:5")
		})
	}
	for name, answer := range map[string]func(rw http.ResponseWriter, r *http.Request){
		"T2 no query": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Link", `</v2/next>; rel="next"`)
			page(rw, all[:2])
		},
		"T2 a circle": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Link", `<?last=2>; rel="next"`)
			page(rw, all[:2])
		},
		"T2 which is the next": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Link", `</v2/team/app/tags/list?last=0>, </v2/team/app/tags/list?last=2>`)
			page(rw, all[:2])
		},
		"T2 malformed without rel": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Link", `</v2/team/app/tags/list?last=2>; title='a`)
			page(rw, all[:2])
		},
		"T2 without an end": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Link", `<?last=`+r.FormValue("last")+`2>; rel="next"`)
			page(rw, all[:2])
		},
		"T2 malformed": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Link", `/v2/x?last=2; rel="next"`)
			page(rw, all[:2])
		},
		"T2 cut off": func(rw http.ResponseWriter, r *http.Request) {
			if r.FormValue("last") != "" {
				rw.WriteHeader(403)
				return
			}
			rw.Header().Set("Link", `<?last=2>; rel="next"`)
			page(rw, all[:2])
		},
		"T2 half a page": func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, `{"name":"team/app","tags":["1","2"`) },
		"T2 no tags":     func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, `{"message":"try later"}`) },
	} {
		t.Run(name, func(t *testing.T) {
			w := many(t)
			w.reg.Break("/tags/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) { answer(rw, r) }))
			newest(t, w, 1, "tags")
			w.want(w.run("store", "ls"), 0, "!team/app")
			if n := w.reg.Count("/tags/"); n > 3 {
				t.Errorf("it was asked for %d times", n)
			}
		})
	}

	t.Run("T2 referrers", func(t *testing.T) {
		w := newWorld(t)
		w.reg.Break("/referrers/", registrytest.Always, between(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
			rw.Header().Set("Link", `<?page=2>; rel="next"`)
			rw.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			fmt.Fprint(rw, `{"schemaVersion":2,"manifests":[]}`)
		}))
		o := w.pull("--referrers", w.image)
		if o.status == 0 {
			t.Error("half a list of signatures counts as whole")
		}
	})

	t.Run("T3", func(t *testing.T) {
		w := many(t)
		w.reg.Break("/tags/", registrytest.Always, between(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
			fmt.Fprint(rw, `{"name":"team/app","tags":["1", null, "5", null]}`)
		}))
		newest(t, w, 0)
		w.want(w.run("store", "ls"), 0, "team/app:5")
	})
}

// tunnel connects a proxy's client to a host.
func tunnel(rw http.ResponseWriter, host string) {
	up, err := new(net.Dialer).DialContext(context.Background(), "tcp", host)
	if err != nil {
		rw.WriteHeader(502)
		return
	}
	defer up.Close()
	rw.WriteHeader(200)
	down, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer down.Close()
	go func() { _, _ = io.Copy(up, buffered) }() // ends with the connections
	_, _ = io.Copy(down, up)
}

// serveBoth passes TLS connections on to a host, and has the others served by plain.
func serveBoth(t *testing.T, host string, plain func(net.Conn)) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err != nil {
			return
		}
		const handshake = 22
		if first[0] != handshake {
			plain(c)
			return
		}
		up, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", host)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = io.Copy(up, io.MultiReader(bytes.NewReader(first), c)) }() // ends with the connections
		_, _ = io.Copy(c, up)
	}
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

// serveRaw answers every request with the same bytes.
func serveRaw(t *testing.T, answer string) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var request [4096]byte
			_, _ = c.Read(request[:])
			_, _ = io.Copy(c, bytes.NewReader([]byte(answer)))
			c.Close()
		}
	}()
	return l.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
