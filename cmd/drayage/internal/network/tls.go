package network

import (
	"fmt"
	"os"

	"drayage/cmd/drayage/internal/limits"
	"drayage/engine/textfile"
)

// ReadPEM reads a file of certificates or of a key that was just opened.
func ReadPEM(f *os.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := textfile.ReadRaw(f, limits.CertificateBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return raw, nil
}
