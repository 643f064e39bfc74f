package main

import (
	"context"
	"fmt"

	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine"

	"github.com/opencontainers/go-digest"
)

// carried is what --since says that the receiver has: the blobs of an archive, of
// a list of digests, or of the images of a lock.
func (o *pullOptions) carried(ctx context.Context, opts engine.Options) (map[digest.Digest]bool, error) {
	if o.out.Since == "" {
		return nil, nil
	}
	digests, refs, with, err := images.ReadSince(ctx, o.out.Since, o.stdin, o.out.MaxRatio.Limit())
	if err != nil {
		return nil, fmt.Errorf("--since %s: %w", o.out.Since, err)
	}
	if len(refs) > 0 {
		// What was pulled then counts, not what is wanted now.
		if opts, err = images.LockedOptions(opts, with); err != nil {
			return nil, fmt.Errorf("--since %s: %w", o.out.Since, err)
		}
		results, _, err := engine.Plan(ctx, opts, refs)
		if err != nil {
			return nil, err
		}
		if failed := engine.Failures(results); len(failed) > 0 {
			return nil, fmt.Errorf("--since %s: %w", o.out.Since, status.Failures(failed))
		}
		for _, r := range results {
			digests = append(digests, r.Image.Digests()...)
		}
	}
	o.base = make(map[digest.Digest]bool, len(digests))
	for _, d := range digests {
		o.base[d] = true
	}
	return o.base, nil
}
