//go:build unix

package listen

import (
	"drayage/engine/registry/registrytest"
	"errors"
	"os"
	"syscall"
	"testing"
)

// A pipe is rejected at once, and the previous certificate stays in use.
func TestAPipeIsNoCertificate(t *testing.T) {
	s := registrytest.NewTLS()
	defer s.Close()
	dir := t.TempDir()
	cert, key := certificate(t, dir, s)
	r, err := ReadCertificate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(cert), syscall.Mkfifo(cert, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := r.look(); err == nil {
		t.Error("a pipe is accepted as a certificate")
	}
	if pair, err := r.Get(nil); err != nil || pair == nil {
		t.Errorf("no certificate: %v", err)
	}
}
