package images

import (
	"fmt"
	"strings"

	"drayage/cmd/drayage/internal/status"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// LockWith begins the line that tells what of the images was pulled, as flags.
const LockWith = "# with"

// ReadLock reads a lock: the digests of images with tags, by their names without
// them. Others are pinned by themselves.
func ReadLock(path string) (map[reference.Image]digest.Digest, error) {
	words, err := ReadNames("lock file", path, strings.NewReader(""))
	if err != nil {
		return nil, err
	}
	out := make(map[reference.Image]digest.Digest)
	for _, w := range words {
		ref, err := reference.Parse(w.Text)
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("%s: %w", w.where(), err))
		}
		if ref.Digest() == "" {
			return nil, status.Misuse(fmt.Errorf("%s: %s has no digest; this is not a lock file", w.where(), w.Text))
		}
		if ref.Tag() != "" {
			out[ref.At("")] = ref.Digest()
		}
	}
	return out, nil
}
