package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drayage/engine/credential"
	"drayage/engine/internal/transfer"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// TestWhereARegistryMayNotLead: by a redirect of anything, a realm or the URL of a layer, also
// when it is on this machine itself.
func TestWhereARegistryMayNotLead(t *testing.T) {
	for _, place := range []string{
		"http://169.254.169.254/latest/meta-data", "http://[::ffff:169.254.169.254]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[2002:a9fe:a9fe::]/",
		"http://[fd00:ec2::254]/", "http://100.100.100.200/", "http://0.0.0.0/", "http://[::]/", "http://[fe80::1]/", "http://255.255.255.255/", "http://224.0.0.1/",
	} {
		for kind, status := range map[string]int{"manifest": 302, "tags": 307, "referrers": 301, "blob": 308, "realm": 401, "foreign": 404} {
			t.Run(kind+" "+place, func(t *testing.T) {
				host := answering(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", place)
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+place+`"`)
					w.WriteHeader(status)
				})
				err := lead(t, client(t, registry.Options{Allowed: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}), host, kind, place)
				if !errors.Is(err, registry.ErrInvalid) || !strings.Contains(err.Error(), "no registry may lead there") {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// lead asks a registry for something that leads elsewhere.
func lead(t *testing.T, c *registry.Client, host, kind, place string) error {
	t.Helper()
	ref, d := parse(t, host+"/team/app:1"), digest.FromString("x")
	switch kind {
	case "blob":
		_, err := c.Blob(ref, d).Open(t.Context(), transfer.Ask{To: 1, Size: 1})
		return err
	case "foreign":
		_, err := c.Blob(ref, d).Open(t.Context(), transfer.Ask{To: 1, Size: 1})
		if !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%v", err)
		}
		b, err := c.Foreign(place, d, ref)
		if err == nil {
			_, err = b.Open(t.Context(), transfer.Ask{To: 1, Size: 1})
		}
		return err
	case "realm":
		return lists(t, c, host)["manifest"]()
	}
	return lists(t, c, host)[kind]()
}

// outside is an address of this machine that is not its loopback's, as registries in a private
// network have them.
func outside(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsPrivate() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address in a private network")
	return ""
}

// at starts a server at an address.
func at(t *testing.T, address string, answer http.HandlerFunc) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Skip(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: answer}}
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

// TestARegistryLeadsNoCloserThanItIs: one in a private network leads there, and not to this
// machine, unless that is allowed; one on this machine leads to both.
func TestARegistryLeadsNoCloserThanItIs(t *testing.T) {
	own := outside(t)
	for _, c := range []struct {
		name, from, to string
		allowed        string
		want           bool
	}{
		{"private to this machine", own, "127.0.0.1", "", false},
		{"private to this machine, allowed", own, "127.0.0.1", "127.0.0.0/8", true},
		{"private to this machine, another allowed", own, "127.0.0.1", "127.0.0.2/32", false},
		{"private to private", own, own, "", true},
		{"this machine to private", "127.0.0.1", own, "", true},
		{"this machine to itself", "127.0.0.1", "127.0.0.1", "", true},
	} {
		for kind, status := range map[string]int{"manifest": 302, "tags": 307, "referrers": 301, "blob": 308, "realm": 401, "foreign": 404} {
			t.Run(c.name+" "+kind, func(t *testing.T) {
				var asked atomic.Bool
				target := at(t, c.to, func(w http.ResponseWriter, _ *http.Request) {
					asked.Store(true)
					http.Error(w, "the inside answer", http.StatusTeapot)
				})
				host := at(t, c.from, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", "http://"+target+"/x")
					w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+target+`/x"`)
					w.WriteHeader(status)
				})
				opts := registry.Options{PlainHTTP: true}
				if c.allowed != "" {
					opts.Allowed = append(opts.Allowed, netip.MustParsePrefix(c.allowed))
				}
				cl := client(t, opts)
				err := lead(t, cl, host, kind, "http://"+target+"/x")
				if err == nil || asked.Load() != c.want || strings.Contains(err.Error(), "inside answer") {
					t.Errorf("asked: %v; %v", asked.Load(), err)
				}
				if !c.want && !strings.Contains(err.Error(), "--allow-address 127.0.0.0/8") {
					t.Errorf("%v", err)
				}
			})
		}
	}
	t.Run("a connection that another registry has made", func(t *testing.T) {
		var asked atomic.Int64
		target := at(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			fmt.Fprint(w, `{"tags":["a"]}`)
		})
		leading := func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://"+target+"/x")
			w.WriteHeader(http.StatusFound)
		}
		near, far := at(t, "127.0.0.1", leading), at(t, own, leading)
		cl := client(t, registry.Options{PlainHTTP: true})
		for _, host := range []string{target, near} { // who names it itself, and a registry of this machine
			if err := lead(t, cl, host, "tags", ""); err != nil {
				t.Error(err)
			}
		}
		before := asked.Load()
		if err := lead(t, cl, far, "tags", ""); err == nil || asked.Load() != before {
			t.Errorf("%v, asked %d times", err, asked.Load()-before)
		}
	})
	t.Run("over a host that leads further in", func(t *testing.T) {
		var asked atomic.Bool
		target := at(t, "127.0.0.1", func(http.ResponseWriter, *http.Request) { asked.Store(true) })
		between := at(t, own, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+target+"/x", http.StatusFound)
		})
		host := at(t, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+between+"/x", http.StatusFound)
		})
		for _, kind := range []string{"manifest", "tags", "referrers", "blob"} {
			if err := lead(t, client(t, registry.Options{PlainHTTP: true}), host, kind, ""); err == nil || asked.Load() {
				t.Errorf("%s: asked: %v; %v", kind, asked.Load(), err)
			}
		}
	})
}

// TestForeignURLsOfManifestsOutOfTheStore: a pull that goes on may have asked the registry nothing
// when it comes to a foreign layer: it is asked once where it is, and leads no closer.
func TestForeignURLsOfManifestsOutOfTheStore(t *testing.T) {
	own := outside(t)
	for _, c := range []struct {
		name, from, to string
		want           bool
	}{
		{"this machine to itself", "127.0.0.1", "127.0.0.1", true},
		{"private to private", own, own, true},
		{"private to this machine", own, "127.0.0.1", false},
		{"nobody to this machine", "", "127.0.0.1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked, told atomic.Int64
			target := at(t, c.to, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				fmt.Fprint(w, "x")
			})
			host := "127.0.0.1:1"
			if c.from != "" {
				host = at(t, c.from, func(w http.ResponseWriter, _ *http.Request) {
					told.Add(1)
					w.WriteHeader(http.StatusTeapot)
				})
			}
			cl := client(t, registry.Options{PlainHTTP: true})
			for range 2 {
				b, err := cl.Foreign("http://"+target+"/x", digest.FromString("x"), parse(t, host+"/team/app:1"))
				if err != nil {
					t.Fatal(err)
				}
				body, err := b.Open(t.Context(), transfer.Ask{To: 1, Size: 1})
				if (err == nil) != c.want || (asked.Load() > 0) != c.want {
					t.Errorf("asked: %v, %v", asked.Load(), err)
				}
				if err == nil {
					_ = body.Close()
				}
				if !c.want && c.from != "" && !strings.Contains(err.Error(), "--allow-address 127.0.0.0/8") {
					t.Error(err)
				}
			}
			if c.from != "" && told.Load() != 1 {
				t.Errorf("the registry was asked %d times", told.Load())
			}
		})
	}
	t.Run("HTTPS", func(t *testing.T) {
		target := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }))
		defer target.Close()
		roots := x509.NewCertPool()
		roots.AddCert(target.Certificate())
		host := answering(t, func(http.ResponseWriter, *http.Request) {})
		cl := client(t, registry.Options{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
		b, err := cl.Foreign(target.URL+"/x", digest.FromString("x"), parse(t, host+"/team/app:1"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := b.Open(t.Context(), transfer.Ask{To: 1, Size: 1})
		if err != nil {
			t.Fatal(err)
		}
		_ = body.Close()
	})
}

// TestWhatOthersSayIsNotTold: bodies of hosts that a registry leads to, of whatever status.
func TestWhatOthersSayIsNotTold(t *testing.T) {
	const said = "the inside answer"
	for _, status := range []int{200, 400, 401, 403, 404, 409, 416, 429, 451, 500, 503} {
		for _, body := range []string{said, `{"errors":[{"code":"X","message":"` + said + `"}]}`, "<html><title>" + said + "</title>", `{"` + said + `":1,"` + said + `":2}`} {
			inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Warning", `299 - "`+said+`"`)
				w.Header().Set("Content-Range", said)
				w.WriteHeader(status)
				fmt.Fprint(w, body)
			}))
			for kind, code := range map[string]int{"manifest": 302, "tags": 307, "referrers": 301, "blob": 308, "realm": 401, "foreign": 404} {
				t.Run(fmt.Sprint(kind, status, " ", body[:3]), func(t *testing.T) {
					host := answering(t, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("Location", inside.URL)
						w.Header().Set("WWW-Authenticate", `Bearer realm="`+inside.URL+`"`)
						w.WriteHeader(code)
					})
					var events record
					opts := registry.Options{Observer: &events, Retry: quick}
					opts.Retry.Patience = 20 * time.Millisecond
					err := lead(t, client(t, opts), host, kind, inside.URL)
					if text := fmt.Sprint(err) + events.text(); strings.Contains(text, said) {
						t.Errorf("%s", text)
					}
				})
			}
			inside.Close()
		}
	}
}

// TestForeignURLsOfHTTPS: a registry of HTTPS names no URLs of plain HTTP.
func TestForeignURLsOfHTTPS(t *testing.T) {
	var asked atomic.Bool
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	defer inside.Close()
	s := registrytest.NewTLS()
	defer s.Close()
	c := client(t, registry.Options{TLS: &tls.Config{RootCAs: s.Roots(), MinVersion: tls.VersionTLS12}})
	s.Push("team/app", "1", small())
	if err := lead(t, c, s.Host(), "foreign", inside.URL); !errors.Is(err, registry.ErrInvalid) || asked.Load() {
		t.Errorf("%v", err)
	}
}

// TestClientCertificatesStayWithTheirRegistry: they are shown to nobody that it leads to.
func TestClientCertificatesStayWithTheirRegistry(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	var shown log
	start := func(name string, answer http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) > 0 {
				shown.add(name)
			}
			answer(w, r)
		}))
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	other := start("other", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	for kind, status := range map[string]int{"manifest": 302, "tags": 307, "referrers": 301, "blob": 308, "realm": 401, "foreign": 404} {
		reg := start("registry", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", other.URL)
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+other.URL+`"`)
			w.WriteHeader(status)
		})
		conf := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		if err := lead(t, client(t, registry.Options{TLS: conf}), reg.Listener.Addr().String(), kind, other.URL); err == nil {
			t.Errorf("%s: it was taken", kind)
		}
	}
	for _, name := range shown.all() {
		if name == "other" {
			t.Error("another host has seen the certificate")
		}
	}
	if len(shown.all()) == 0 {
		t.Error("no registry has seen the certificate")
	}
}

// TestPortsThatAreNone: they are refused at once, wherever they are named.
func TestPortsThatAreNone(t *testing.T) {
	for _, port := range []string{"0", "65536", "99999999999"} {
		for kind, status := range map[string]int{"manifest": 302, "tags": 307, "referrers": 301, "blob": 308, "realm": 401, "foreign": 404} {
			t.Run(kind+port, func(t *testing.T) {
				place := "http://127.0.0.1:" + port + "/x"
				host := answering(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Location", place)
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+place+`"`)
					w.WriteHeader(status)
				})
				if err := lead(t, client(t, registry.Options{}), host, kind, place); !errors.Is(err, registry.ErrInvalid) {
					t.Errorf("%v", err)
				}
			})
		}
		for _, text := range []string{"docker.io=https://m.example:" + port, "r.example:" + port + "=https://m.example"} {
			if _, err := hosts.ParseMirror(text); err == nil {
				t.Errorf("%s is taken", text)
			}
		}
	}
}

// TestPasswordsNeedTLSWhereItIsSpoken: where plain HTTP is allowed, a host that speaks TLS never
// gets a password without, whatever answers at its plain port.
func TestPasswordsNeedTLSWhereItIsSpoken(t *testing.T) {
	login := func() *credential.Set {
		c, err := credential.Login("ann", "secret-password")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	t.Run("a registry of TLS", func(t *testing.T) {
		// One port that speaks both: who asks by plain HTTP is asked for a password.
		s := registrytest.NewTLS()
		defer s.Close()
		s.RequireBasic("ann", "secret-password")
		ref := parse(t, s.Push("app", "1", small()))
		var plain log
		both := bothWays(t, s.Host(), func(w http.ResponseWriter, r *http.Request) {
			plain.add(r.Header.Get("Authorization"))
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		})
		name := strings.Replace(ref.Name(), s.Host(), both, 1)
		for _, insecure := range []bool{true, false} {
			c := client(t, registry.Options{Credentials: login(), PlainHTTP: insecure, TLS: &tls.Config{RootCAs: s.Roots(), MinVersion: tls.VersionTLS12}})
			if err := pull(t.Context(), c, parse(t, name)); err != nil {
				t.Error(err)
			}
		}
		if len(plain.all()) > 0 {
			t.Error("it was asked by plain HTTP")
		}
		// A certificate that isn't trusted is no reason to send a password in the clear.
		err := pull(t.Context(), client(t, registry.Options{Credentials: login(), PlainHTTP: true}), parse(t, name))
		if !errors.Is(err, registry.ErrInvalid) || !strings.Contains(err.Error(), "--ca-cert") || !strings.Contains(err.Error(), "requires a login by plain HTTP") {
			t.Errorf("%v", err)
		}
		if strings.Join(plain.all(), "") != "" {
			t.Errorf("a password by plain HTTP: %q", plain.all())
		}
	})
	t.Run("a registry of plain HTTP", func(t *testing.T) {
		s := serve(t)
		s.RequireBasic("ann", "secret-password")
		ref := parse(t, s.Push("app", "1", small()))
		var events record
		if err := pull(t.Context(), client(t, registry.Options{Credentials: login(), PlainHTTP: true, Observer: &events}), ref); err != nil {
			t.Error(err)
		}
		if strings.Contains(events.text(), "without encryption") {
			t.Error("a warning for this machine")
		}
	})
	t.Run("a registry of plain HTTP elsewhere", func(t *testing.T) {
		var asked atomic.Int64
		host := at(t, outside(t), func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			if _, password, _ := r.BasicAuth(); password != "secret-password" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, `{"tags":["a"]}`)
		})
		var events record
		c := client(t, registry.Options{Credentials: login(), PlainHTTP: true, Observer: &events})
		for range 2 {
			if err := lists(t, c, host)["tags"](); err != nil {
				t.Error(err)
			}
		}
		if n := strings.Count(events.text(), "is sent over the network unencrypted"); n != 1 {
			t.Errorf("%d warnings", n)
		}
	})
	t.Run("a registry that requires a client certificate", func(t *testing.T) {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}
		s.StartTLS()
		defer s.Close()
		var plain log
		both := bothWays(t, s.Listener.Addr().String(), func(_ http.ResponseWriter, r *http.Request) { plain.add(r.URL.Path) })
		c := client(t, registry.Options{PlainHTTP: true, TLS: &tls.Config{InsecureSkipVerify: true}})
		if err := lists(t, c, both)["tags"](); !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), "--cert") || len(plain.all()) > 0 {
			t.Errorf("%v, asked by plain HTTP: %q", err, plain.all())
		}
	})
	t.Run("servers that know no TLS", func(t *testing.T) {
		for name, answer := range map[string]func(net.Conn){
			"hangs up": func(net.Conn) {},
			"answers 400": func(c net.Conn) {
				_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			},
			"answers a page":      func(c net.Conn) { _, _ = io.WriteString(c, "<!DOCTYPE HTML><p>Bad request version") },
			"answers half a line": func(c net.Conn) { _, _ = io.WriteString(c, "220") },
			"ends the handshake": func(c net.Conn) {
				refusing := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("another name") }}
				_ = tls.Server(c, refusing).HandshakeContext(t.Context())
			},
			"speaks an old TLS": func(c net.Conn) { _, _ = c.Write([]byte("\x15\x03\x01\x00\x02\x02\x46")) }, // protocol version
			"resets": func(c net.Conn) {
				if tcp, ok := c.(*peeked).Conn.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
			},
		} {
			host := plainly(t, answer)
			if err := lists(t, client(t, registry.Options{PlainHTTP: true}), host)["tags"](); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("a server that says nothing to TLS", func(t *testing.T) {
		host := plainly(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		if err := lists(t, client(t, registry.Options{PlainHTTP: true}), host)["tags"](); err != nil {
			t.Error(err)
		}
	})
}

// TestPlainHTTPBesideAForeignCertificate: where what speaks TLS at the port has a certificate that
// can't be verified, the registry is asked by plain HTTP, and gets no password there.
func TestPlainHTTPBesideAForeignCertificate(t *testing.T) {
	other := registrytest.NewTLS()
	defer other.Close()
	login := func() *credential.Set {
		c, err := credential.Login("ann", "secret-password")
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	challenge := func(w http.ResponseWriter) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string // in the error, "" for none
	}{
		{"a registry", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"tags":["a"]}`) }, ""},
		{"a registry that hasn't this", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
		}, "404"},
		{"one that requires a login", func(w http.ResponseWriter, _ *http.Request) { challenge(w) }, "requires a login by plain HTTP"},
		{"a page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `<!DOCTYPE html><html>`) }, "--ca-cert"},
		{"another server's error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusNotFound) }, "--ca-cert"},
		{"a failure", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }, "--ca-cert"},
		{"the way to HTTPS", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://"+r.Host+r.URL.Path, http.StatusMovedPermanently)
		}, "--ca-cert"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sent log
			host := bothWays(t, other.Host(), func(w http.ResponseWriter, r *http.Request) {
				sent.add(r.Header.Get("Authorization"))
				c.answer(w, r)
			})
			cl := client(t, registry.Options{Credentials: login(), PlainHTTP: true})
			for range 2 {
				if err := lists(t, cl, host)["tags"](); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
			if strings.Join(sent.all(), "") != "" {
				t.Errorf("a password by plain HTTP: %q", sent.all())
			}
		})
	}
	t.Run("a login that is required later", func(t *testing.T) {
		var sent log
		host := bothWays(t, other.Host(), func(w http.ResponseWriter, r *http.Request) {
			sent.add(r.Header.Get("Authorization"))
			if strings.Contains(r.URL.Path, "/manifests/") {
				challenge(w)
				return
			}
			fmt.Fprint(w, `{"tags":["a"]}`)
		})
		cl := client(t, registry.Options{Credentials: login(), PlainHTTP: true})
		if err := lists(t, cl, host)["tags"](); err != nil {
			t.Fatal(err)
		}
		if err := lists(t, cl, host)["manifest"](); !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), "can't be verified") {
			t.Errorf("%v", err)
		}
		if strings.Join(sent.all(), "") != "" {
			t.Errorf("a password by plain HTTP: %q", sent.all())
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		host := bothWays(t, other.Host(), func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			fmt.Fprint(w, `{"tags":["a"]}`)
		})
		cl := client(t, registry.Options{PlainHTTP: true})
		if _, err := cl.Head(t.Context(), parse(t, host+"/team/app:1"), "1"); err != nil {
			t.Error(err)
		}
	})
	t.Run("without -I", func(t *testing.T) {
		var sent log
		host := bothWays(t, other.Host(), func(_ http.ResponseWriter, r *http.Request) { sent.add(r.URL.Path) })
		if err := lists(t, client(t, registry.Options{Mirrors: []hosts.Mirror{itself(t, host)}}), host)["tags"](); err == nil || len(sent.all()) > 0 {
			t.Errorf("%v, asked: %q", err, sent.all())
		}
	})
}

// itself is a registry that is known to speak HTTPS.
func itself(t *testing.T, host string) hosts.Mirror {
	t.Helper()
	u, err := url.Parse("https://" + host)
	if err != nil {
		t.Fatal(err)
	}
	return hosts.Mirror{Registry: host, URL: u, Origin: true}
}

// TestPlainHTTPBesideTheTLSPort: a registry of plain HTTP at port 80, with something else at 443.
func TestPlainHTTPBesideTheTLSPort(t *testing.T) {
	const address = "127.83.19.7"
	listen := func(t *testing.T, port string) net.Listener {
		t.Helper()
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(address, port))
		if err != nil {
			t.Skip(err) // it takes root
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	start := func(t *testing.T, port string, answer http.HandlerFunc, conf *tls.Config) {
		t.Helper()
		s := &httptest.Server{Listener: listen(t, port), Config: &http.Server{Handler: answer}, TLS: conf}
		if conf != nil {
			s.StartTLS()
		} else {
			s.Start()
		}
		t.Cleanup(s.Close)
	}
	page := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }
	for name, other := range map[string]func(t *testing.T){
		"a closed port":         func(*testing.T) {},
		"plain HTTP":            func(t *testing.T) { start(t, "443", page, nil) },
		"a foreign certificate": func(t *testing.T) { start(t, "443", page, &tls.Config{MinVersion: tls.VersionTLS12}) },
		"an alert": func(t *testing.T) {
			start(t, "443", page, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("another name") }})
		},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, "80", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"tags":["a"]}`) }, nil)
			other(t)
			if err := lists(t, client(t, registry.Options{PlainHTTP: true}), address)["tags"](); err != nil {
				t.Error(err)
			}
		})
		t.Run(name+" and nobody", func(t *testing.T) {
			listen(t, "80").Close()
			other(t)
			err := lists(t, client(t, registry.Options{PlainHTTP: true, Retry: quick}), address)["tags"]()
			if err == nil || name == "an alert" && !strings.Contains(err.Error(), "; by HTTPS: remote error: tls") || name == "a foreign certificate" && !strings.Contains(err.Error(), "--ca-cert") {
				t.Error(err)
			}
		})
	}
}

// peeked is a connection whose first byte was read.
type peeked struct {
	net.Conn
	first []byte
}

func (p *peeked) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// sorted listens, and gives what speaks TLS to one function and the rest to another.
func sorted(t *testing.T, withTLS, plain func(net.Conn)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				first := make([]byte, 1)
				if _, err := io.ReadFull(c, first); err != nil {
					return
				}
				const handshake = 0x16
				if p := (&peeked{c, first}); first[0] == handshake {
					withTLS(p)
				} else {
					plain(p)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// plainly serves a list of tags by plain HTTP, and does something else with TLS.
func plainly(t *testing.T, withTLS func(net.Conn)) string {
	t.Helper()
	return sorted(t, withTLS, func(c net.Conn) {
		buf := make([]byte, 4096)
		_, _ = c.Read(buf)
		_, _ = c.Read(buf)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{\"tags\":[\"a\"]}")
	})
}

// bothWays passes TLS on to a server, and answers plain HTTP.
func bothWays(t *testing.T, to string, answer http.HandlerFunc) string {
	t.Helper()
	plain := httptest.NewServer(answer)
	t.Cleanup(plain.Close)
	pass := func(to string) func(net.Conn) {
		return func(c net.Conn) {
			up, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
			if err != nil {
				return
			}
			defer up.Close()
			go func() { _, _ = io.Copy(up, c) }()
			_, _ = io.Copy(c, up)
		}
	}
	return sorted(t, pass(to), pass(plain.Listener.Addr().String()))
}

// TestExaminersGoWhereRegistriesMayLead: connections and requests that are made to look at what a
// registry leads to go no further than those of pulls.
func TestExaminersGoWhereRegistriesMayLead(t *testing.T) {
	var asked atomic.Bool
	target := at(t, "127.0.0.1", func(http.ResponseWriter, *http.Request) { asked.Store(true) })
	host := at(t, outside(t), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	c := client(t, registry.Options{PlainHTTP: true})
	ref := parse(t, host+"/team/app:1")
	if err := lists(t, c, host)["manifest"](); !errors.Is(err, registry.ErrNotFound) {
		t.Fatal(err)
	}
	for _, follower := range []*registry.Client{c, client(t, registry.Options{PlainHTTP: true})} {
		follower.Follow(c, ref)
		if conn, err := follower.Dial(t.Context(), ref, "tcp", target); err == nil {
			_ = conn.Close()
			t.Error("a connection was made")
		}
		u := &url.URL{Scheme: "http", Host: target, Path: "/x"}
		if resp, err := follower.Elsewhere(t.Context(), http.MethodGet, ref, u, nil); err == nil {
			_ = resp.Body.Close()
			t.Error("a request was sent")
		}
		conn, err := follower.Dial(t.Context(), ref, "tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	if asked.Load() {
		t.Error("it was asked")
	}
}

// Further connections to a host go on with the session of the first.
func TestTLSSessionsAreResumed(t *testing.T) {
	var resumed, anew atomic.Int32
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS.DidResume {
			resumed.Add(1)
		} else {
			anew.Add(1)
		}
		w.Header().Set("Connection", "close")
	}))
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	c := client(t, registry.Options{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}})
	for range 5 {
		if err := c.Ping(t.Context(), s.Listener.Addr().String()); err != nil {
			t.Fatal(err)
		}
	}
	if resumed.Load() != 4 || anew.Load() != 1 {
		t.Errorf("%d sessions were resumed, and %d begun", resumed.Load(), anew.Load())
	}
}
