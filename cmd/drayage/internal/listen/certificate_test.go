package listen

import (
	"context"
	"crypto/x509"
	"drayage/engine/registry/registrytest"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// certificate writes a test server's certificate and key as files.
func certificate(t *testing.T, dir string, s *registrytest.Server) (cert, key string) {
	t.Helper()
	pair := s.TLS().Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// A certificate that can't be reloaded leaves the previous one in use, with one warning.
func TestABrokenFileKeepsTheCertificate(t *testing.T) {
	s := registrytest.NewTLS()
	defer s.Close()
	dir := t.TempDir()
	cert, key := certificate(t, dir, s)
	whole, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var warned []string
		r, err := ReadCertificate(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Watch(ctx, func(m string) { warned = append(warned, m) }) }()
		defer func() { cancel(); <-done }()
		time.Sleep(time.Second) // nothing is written while it is read
		for _, raw := range [][]byte{whole[:len(whole)/2], nil, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("none")}), whole, whole} {
			if err := os.WriteFile(cert, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				time.Sleep(time.Minute)
				if pair, err := r.Get(nil); err != nil || pair == nil {
					t.Fatalf("no certificate: %v", err)
				}
			}
		}
		if len(warned) != 2 || !strings.Contains(warned[0], "keeping the previous certificate") || !strings.Contains(warned[1], "reloaded") {
			t.Errorf("warned: %q", warned)
		}
	})
}
