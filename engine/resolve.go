package engine

import (
	"context"
	"fmt"
	"slices"

	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/schedule"
	"drayage/engine/plan"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// resolve finds the image that a name stands for, if it is one to accept.
func (o Options) resolve(ctx context.Context, m *manifests, ref reference.Image) (*plan.Image, error) {
	img, err := plan.Resolve(ctx, m, ref, plan.Selection{Platform: o.Platform, Others: o.Others, All: o.AllPlatforms})
	if err == nil && img.Documents[0].Index != nil && img.Main().Platform != nil {
		if versions := image.Ambiguous(img.Documents[0].Index, o.Platform); len(versions) > 0 {
			o.observe(event.Warned{Message: fmt.Sprintf("%s: there are images for %d versions of %s; the one for %s is taken", ref, len(versions), o.Platform, versions[0])})
		}
	}
	if err == nil && o.Referrers {
		err = o.addReferrers(ctx, m, img)
	}
	if err == nil && o.Accept != nil {
		err = o.Accept(img)
	}
	return img, err
}

// Plan resolves images and works out what pulling them would take. It fetches
// manifests that the store doesn't have, and changes nothing. The results are
// in the order of refs; those of images that can't be resolved have an error.
// Fetched and Reused are what a pull would fetch and reuse for each image.
func Plan(ctx context.Context, o Options, refs []reference.Image) ([]Result, *plan.Plan, error) {
	refs = unique(refs)
	results := make([]Result, len(refs))
	err := schedule.Run(ctx, o.Limits, func(q *schedule.Queue) error {
		for i, ref := range refs {
			q.Add(schedule.Job{Host: o.Registry.Host(ref), Kind: schedule.Small, Run: func(ctx context.Context, slot *schedule.Slot) error {
				m := &manifests{opts: o, answered: slot.Answered}
				img, err := o.resolve(ctx, m, ref)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				results[i] = Result{Ref: ref, Image: img, Fetched: m.fetched, Reused: m.reused, Err: err}
				return nil
			}})
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	// In order, so that the same images give the same plan.
	p := new(plan.Plan)
	excluded := make(map[digest.Digest]bool)
	for i := range results {
		if r := &results[i]; r.Err == nil {
			r.Err = o.addTo(p, excluded, r)
		}
	}
	for d := range excluded {
		if excluded[d] {
			p.Exclude(d)
		}
	}
	return results, p, nil
}

// addTo adds a resolved image to a plan, and counts what is to be fetched for it. excluded are the
// blobs of the plan that no image before it needs, since others have them.
func (o Options) addTo(p *plan.Plan, excluded map[digest.Digest]bool, r *Result) error {
	carried := o.carried(r.Image)
	for _, d := range r.Image.Blobs() { // what others do without, this image may need
		if excluded[d.Digest] && !carried[d.Digest] {
			p.Remove(d.Digest)
		}
	}
	added, err := p.Add(r.Image, func(d ocispec.Descriptor) (bool, error) {
		has, err := o.Store.Has(d)
		excluded[d.Digest] = !has && carried[d.Digest]
		return has || carried[d.Digest], err
	})
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(r.Image.Blobs(), func(d ocispec.Descriptor) bool { return excluded[d.Digest] && carried[d.Digest] })
	fresh := make(map[digest.Digest]bool)
	for _, b := range added {
		fresh[b.Digest] = true
	}
	for _, d := range all {
		if has, err := o.Store.Has(d); err == nil && !has && !fresh[d.Digest] {
			r.Shared += d.Size
		}
	}
	f, reused := shares(all, added)
	r.Fetched += f
	r.Reused += reused
	return nil
}

// carried lists the layers of an image that need not be fetched. A schema 1
// manifest's layers are read for their diff ids.
func (o Options) carried(img *plan.Image) map[digest.Digest]bool {
	out := make(map[digest.Digest]bool)
	if o.Carried == nil {
		return out
	}
	for _, v := range img.Variants {
		for _, l := range v.Layers {
			out[l.Digest] = v.Schema1 == nil && o.Carried(l)
		}
	}
	for _, d := range img.Configs() {
		delete(out, d.Digest)
	}
	return out
}

// shares splits an image's blobs into the bytes that are to be fetched for it,
// and those that are here or come for another image.
func shares(all []ocispec.Descriptor, added []plan.Blob) (fetch, reuse int64) {
	for _, b := range all {
		reuse += b.Size
	}
	for _, b := range added {
		if !b.Here {
			fetch += b.Size
		}
	}
	return fetch, reuse - fetch
}
