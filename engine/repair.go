package engine

import (
	"context"
	"errors"
	"slices"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/reference"
)

// Repair fetches what the store lacks of an image that was pulled: exactly what it
// stood for then, for the platforms that it had, whatever its tag stands for now.
func Repair(ctx context.Context, o Options, ref reference.Image, root blobstore.Root) error {
	o.Platform, o.Others, o.AllPlatforms = image.DefaultPlatform(), nil, false
	platforms, err := o.platformsOf(ctx, ref, root)
	if err != nil {
		return &ImageError{Ref: ref, Err: err}
	}
	if len(platforms) > 0 {
		o.Platform, o.Others = platforms[0], platforms[1:]
	}
	for _, beside := range root.Beside {
		o.Referrers = o.Referrers || beside.Digest != ""
	}
	results, err := Pull(ctx, o, []reference.Image{ref.At(root.Target.Digest)})
	if err != nil {
		return err
	}
	return errors.Join(Failures(results)...)
}

// platformsOf are those of an index that a root has, none when it has no index.
func (o Options) platformsOf(ctx context.Context, ref reference.Image, root blobstore.Root) ([]image.Platform, error) {
	doc, err := (&manifests{opts: o}).Manifest(ctx, ref, root.Target.Digest.String())
	if err != nil {
		return nil, err
	}
	if doc.Index == nil {
		return nil, nil
	}
	var out []image.Platform
	for _, child := range doc.Index.Manifests {
		if child.Platform == nil || !slices.Contains(root.Blobs, child.Digest) {
			continue
		}
		p, err := image.ParsePlatform(image.FormatPlatform(*child.Platform))
		if err == nil { // what can't be asked for was not
			out = append(out, p)
		}
	}
	return out, nil
}
