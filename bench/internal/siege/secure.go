package siege

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Certificate writes a certificate for loopback, and its key, into files of a folder.
func Certificate(dir string) (cert, key string, err error) {
	const life = 24 * time.Hour
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, private.Public(), private)
	if err != nil {
		return "", "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	return cert, key, errors.Join(
		os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600),
	)
}

// overHTTP2 is a transport for HTTPS at loopback, by streams of one connection.
func overHTTP2(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{DialContext: dial, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // nobody is between
}

// streams opens as many streams as it is let over one connection, reads of each what it has in most
// bytes, holds them for a while, and resets them.
func streams(path string, most int64, while time.Duration) func(context.Context, *attacker) {
	const pause, many = 500 * time.Millisecond, 100
	return func(ctx context.Context, a *attacker) {
		each(ctx, pause, func(int) {
			ctx, cancel := context.WithTimeout(ctx, while)
			defer cancel()
			var open sync.WaitGroup
			for range many {
				open.Go(func() { a.stream(ctx, path, most) })
			}
			open.Wait()
		})
	}
}

// stream asks for a path over HTTP/2, reads so many bytes, and waits until ctx is done.
func (a *attacker) stream(ctx context.Context, path string, most int64) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+a.target.Secure+path, nil)
	if err != nil {
		panic(err) // a fault of this package
	}
	req.SetBasicAuth(a.target.User, a.target.Password)
	resp, err := a.secure.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	a.count(resp.StatusCode)
	_, _ = io.CopyN(io.Discard, resp.Body, most)
	<-ctx.Done()
}

// uploads opens streams with bodies that never end.
func uploads(ctx context.Context, a *attacker) {
	const pause = 20 * time.Millisecond
	each(ctx, pause, func(n int) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, []string{http.MethodGet, http.MethodPost, http.MethodHead}[n%3], "https://"+a.target.Secure+"/v2/", &endless{ctx: ctx})
		if err != nil {
			panic(err) // a fault of this package
		}
		req.SetBasicAuth(a.target.User, a.target.Password)
		resp, err := a.secure.Do(req)
		if err != nil {
			return
		}
		a.count(resp.StatusCode)
		resp.Body.Close()
	})
}

// endless is a body of one byte, and no end until ctx is done.
type endless struct {
	ctx  context.Context
	said bool
}

// Read implements io.Reader.
func (e *endless) Read(p []byte) (int, error) {
	if !e.said && len(p) > 0 {
		e.said, p[0] = true, 'x'
		return 1, nil
	}
	<-e.ctx.Done()
	return 0, context.Cause(e.ctx)
}
