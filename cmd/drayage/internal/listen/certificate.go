package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/process"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Certificate is a certificate that Watch reads again when its files have changed. The previous one
// stays in use when they can't be read or don't match; no client waits for a file.
type Certificate struct {
	cert, key string
	pair      atomic.Pointer[tls.Certificate]

	mu     sync.Mutex
	raw    [2][]byte // what the files had
	looked time.Time
	err    error // of the latest look
}

// ReadCertificate reads a certificate and its private key.
func ReadCertificate(cert, key string) (*Certificate, error) {
	r := &Certificate{cert: filepath.Clean(cert), key: filepath.Clean(key)}
	return r, r.look()
}

// Watch reads the files again every few seconds until ctx is done, and warns when they break.
func (r *Certificate) Watch(ctx context.Context, warn func(string)) {
	broken := false
	process.Poll(ctx, r.due, func() { _ = r.look() }, func() {
		r.mu.Lock()
		err := r.err
		r.mu.Unlock()
		switch {
		case err != nil && !broken:
			warn(fmt.Sprintf("cannot reload --tls-cert and --tls-key, keeping the previous certificate: %v", err))
		case err == nil && broken:
			warn("reloaded --tls-cert and --tls-key")
		}
		broken = err != nil
	})
}

func (r *Certificate) due() bool {
	const often = 10 * time.Second
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.looked) >= often
}

// look reads the files. It is called by one at a time.
func (r *Certificate) look() error {
	r.mu.Lock()
	r.looked = time.Now()
	old := r.raw
	r.mu.Unlock()
	raw, pair, err := readPair(r.cert, r.key, old)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if pair != nil {
		r.raw = raw
		r.pair.Store(pair)
	}
	return err
}

// readPair reads a certificate and its key; a nil pair means that they are unchanged.
func readPair(cert, key string, old [2][]byte) (raw [2][]byte, pair *tls.Certificate, err error) {
	for i, path := range []string{cert, key} {
		if raw[i], err = network.ReadPEM(durable.OpenRegular(path)); err != nil {
			return raw, nil, err
		}
	}
	if bytes.Equal(raw[0], old[0]) && bytes.Equal(raw[1], old[1]) {
		return raw, nil, nil
	}
	made, err := tls.X509KeyPair(raw[0], raw[1])
	if err != nil {
		return raw, nil, err
	}
	return raw, &made, nil
}

// Get is the current certificate, for tls.Config.GetCertificate.
func (r *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.pair.Load(), nil }
