package pullthrough

import (
	"context"
	"time"

	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Tags implements mirror.Upstream.
func (t *Cache) Tags(ctx context.Context, ref reference.Image) ([]string, error) {
	key := ref.Registry() + "/" + ref.Repository()
	t.mu.Lock()
	known, ok := t.lists.get(key)
	t.mu.Unlock()
	if ok && time.Since(known.at) < t.opts.Fresh {
		return known.tags, nil
	}
	tags, err := t.tagLists.do(ctx, t.ctx, &t.work, key, func(ctx context.Context) ([]string, error) {
		return ask(ctx, t.listing, ref.Registry(), t.within, func(ctx context.Context) ([]string, error) { return t.opts.Manifests.Tags(ctx, ref) })
	})
	if err != nil {
		return nil, upstreamError(err)
	}
	const each = 32 // bytes that a string takes beside its text, or somewhat more
	bytes := int64(len(key) + each)
	for _, tag := range tags {
		bytes += int64(len(tag) + each)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lists.put(key, list{tags, time.Now()}, bytes)
	return tags, nil
}

// Referrers implements mirror.Upstream.
func (t *Cache) Referrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	key := ref.Registry() + "/" + ref.Repository() + "@" + subject.String()
	out, err := t.referring.do(ctx, t.ctx, &t.work, key, func(ctx context.Context) ([]ocispec.Descriptor, error) {
		return ask(ctx, t.listing, ref.Registry(), t.within, func(ctx context.Context) ([]ocispec.Descriptor, error) {
			return t.opts.Manifests.Referrers(ctx, ref, subject)
		})
	})
	return out, upstreamError(err)
}
