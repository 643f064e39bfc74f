package pullthrough

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"drayage/engine/event"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// upstreamError is an error as a mirror tells its clients of it.
func upstreamError(err error) error {
	if err == nil {
		return nil
	}
	if isLocal(err) {
		return fmt.Errorf("%w: %w", mirror.ErrLocal, err)
	}
	for _, k := range []struct{ from, to error }{
		{registry.ErrNotFound, mirror.ErrUnknown}, {registry.ErrDenied, mirror.ErrDenied}, {registry.ErrQuota, mirror.ErrBusy},
	} {
		if errors.Is(err, k.from) {
			return fmt.Errorf("%w: %w", k.to, err)
		}
	}
	return err
}

// isLocal reports whether it is the store that fails, and not upstream.
func isLocal(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	return errors.As(err, &path) || errors.As(err, &link) || errors.Is(err, syscall.ENOSPC)
}

// kept is what became of keeping what upstream gave, in a mirror's terms. A store that can't be
// written is told now and then: it fails each request.
func (t *Cache) kept(ref reference.Image, err error) error {
	const often = time.Minute
	if err == nil || !isLocal(err) || t.ctx.Err() != nil {
		return upstreamError(err)
	}
	t.mu.Lock()
	due := time.Since(t.complained) >= often
	if due {
		t.complained = time.Now()
	}
	t.mu.Unlock()
	if due {
		t.opts.observe(event.Warned{Message: fmt.Sprintf("%s: writing to the store failed: %v", ref, err)})
	}
	return upstreamError(err)
}

// sizesError says that a repository has another size for a blob than a manifest of it says.
type sizesError struct {
	digest       digest.Digest
	listed, told int64
}

func (e *sizesError) Error() string {
	return fmt.Sprintf("upstream reports %d bytes for %s, but its descriptor has size %d", e.told, e.digest, e.listed)
}
