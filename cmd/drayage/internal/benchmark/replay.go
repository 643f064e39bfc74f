package benchmark

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"drayage/bench"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/history"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// replay is a recorded pull, and the registries to read from now.
type replay struct {
	blobs []history.Blob      // that were downloaded
	from  []string            // registries; "" for the original ones
	at    [][]reference.Image // by registry, then by blob
}

// readReplay reads a pull report. from has registries separated by commas, or is empty.
func readReplay(path, from string) (*replay, error) {
	f, err := durable.OpenNamed(path)
	if err != nil {
		return nil, fmt.Errorf("--replay: %w", err)
	}
	defer f.Close()
	p, err := history.Read(f)
	if err != nil {
		return nil, status.Misuse(fmt.Errorf("--replay %s: %w", path, err))
	}
	r := &replay{from: []string{""}}
	if from != "" {
		r.from = strings.Split(from, ",")
	}
	for _, b := range p.Blobs {
		if b.Received > 0 && b.Error == "" {
			r.blobs = append(r.blobs, b)
		}
	}
	for i, name := range r.from {
		if name = strings.TrimSpace(name); name != "" {
			if name, err = hosts.ParseName(name); err != nil {
				return nil, status.Misuse(fmt.Errorf("--from: %w", err))
			}
			r.from[i] = name
		}
		refs, err := r.references(name)
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("--replay %s: %w", path, err))
		}
		r.at = append(r.at, refs)
	}
	if len(r.blobs) == 0 {
		return nil, status.Misuse(fmt.Errorf("--replay %s: the pull downloaded no blobs", path))
	}
	return r, nil
}

// references are the images of the blobs, at another registry unless it is empty.
func (r *replay) references(registry string) ([]reference.Image, error) {
	var refs []reference.Image
	for _, b := range r.blobs {
		ref, err := reference.Parse(b.Image)
		if err == nil && registry != "" {
			ref, err = reference.Parse(registry + "/" + ref.Repository())
		}
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

func (r *replay) refs() []reference.Image { return slices.Concat(r.at...) }

// concurrency is how many blobs were downloaded at once.
func (r *replay) concurrency() int {
	most := 1
	for _, a := range r.blobs { // the maximum is reached when some blob has just started
		n := 0
		for _, b := range r.blobs {
			if b.Start <= a.Start && a.Start < b.Start+b.Elapsed {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// targets makes one target per registry.
func (r *replay) targets(client *registry.Client, o bench.TargetOptions) ([]*bench.Target, error) {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	first := r.blobs[0].Start
	var out []*bench.Target
	for i, name := range r.from {
		if name == "" {
			name = "original registries"
		}
		var reads []bench.Read
		for j, b := range r.blobs {
			reads = append(reads, bench.Read{
				Due: seconds(b.Start - first), Took: seconds(b.Elapsed), From: b.Resumed,
				Blob: ocispec.Descriptor{Digest: b.Digest, Size: b.Size}, Source: client.Blob(r.at[i][j], b.Digest),
			})
		}
		t, err := bench.NewReplay(name, reads, o)
		if err != nil {
			return nil, status.Misuse(err)
		}
		out = append(out, t)
	}
	return out, nil
}
