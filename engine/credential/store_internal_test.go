package credential

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"drayage/blobstore/durable"
)

// A config.json that is os.DevNull, by which some have none, is not replaced by a file.
func TestTheNullDeviceIsNotChanged(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("it is no file there")
	}
	link := filepath.Join(t.TempDir(), "config.json")
	if err := os.Symlink(os.DevNull, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{os.DevNull, link} {
		if raw, err := readPlace(path); err != nil || len(raw) > 0 {
			t.Errorf("%s: %q, %v", path, raw, err)
		}
		if _, err := openDocument(path); !errors.Is(err, durable.ErrNotPlain) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
