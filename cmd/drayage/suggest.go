package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"drayage/cmd/drayage/internal/status"
	"drayage/engine"
	"drayage/engine/printable"
	"drayage/engine/registry"
)

// isManifestMissing reports whether it is a manifest that a registry doesn't have, and no blob.
func isManifestMissing(err error) bool {
	var e *registry.Error
	return errors.Is(err, registry.ErrNotFound) && errors.As(err, &e) && strings.Contains(e.URL, "/manifests/")
}

// suggest adds to errors about tags that aren't there which similar ones there are. The registry
// is asked for a few of them.
func (o *pullOptions) suggest(ctx context.Context, c *registry.Client, failed status.Failures) status.Failures {
	const most, patience = 3, 5 * time.Second
	asked := 0
	out := slices.Clone(failed)
	for i, err := range out {
		var img *engine.ImageError
		if ctx.Err() != nil || asked == most || !errors.As(err, &img) || !isManifestMissing(err) || img.Ref.Tag() == "" || img.Ref.Digest() != "" {
			continue
		}
		asked++
		inner, cancel := context.WithTimeout(ctx, patience)
		tags, errTags := c.Tags(inner, img.Ref)
		cancel()
		if errTags != nil {
			continue
		}
		if near := nearest(img.Ref.Tag(), tags); len(near) > 0 {
			out[i] = fmt.Errorf("%w; similar tags: %s", err, strings.Join(near, ", "))
		}
	}
	return out
}

// nearest are the tags that are closest to one, at most three of them.
func nearest(tag string, tags []string) []string {
	const most = 3
	type candidate struct {
		tag  string
		away int
	}
	var all []candidate
	for _, t := range tags {
		if printable.Line(t) != t {
			continue
		}
		away := distance(tag, t)
		if strings.HasPrefix(t, tag) {
			away = min(away, 1)
		}
		if away <= max(1, len(tag)/3) {
			all = append(all, candidate{t, away})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.away - b.away })
	var out []string
	for _, c := range all[:min(len(all), most)] {
		out = append(out, c.tag)
	}
	return out
}

// distance is how many characters it takes to make one text of another (Levenshtein's).
func distance(a, b string) int {
	const longest = 128 // of a tag
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
