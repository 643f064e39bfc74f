package engine

import (
	"errors"
	"fmt"

	"drayage/engine/plan"
	"drayage/engine/reference"
)

// Result is what became of one image.
type Result struct {
	Ref     reference.Image
	Image   *plan.Image // nil when its name could not be resolved
	Fetched int64       // bytes that came over the network for it
	Reused  int64       // bytes that the store had, or that came for another image
	Shared  int64       // in a plan, those of Reused that are to come for an image before it
	Err     error       // nil when all of it is in the store and pinned
}

// ErrStopped is the error of an image that was not finished because another
// failed, or the run was ended.
var ErrStopped = errors.New("stopped before it was complete")

// ImageError is a failure with the image that it happened to.
type ImageError struct {
	Ref reference.Image
	Err error
}

func (e *ImageError) Error() string { return fmt.Sprintf("%s: %v", e.Ref, e.Err) }

// Unwrap is the failure itself.
func (e *ImageError) Unwrap() error { return e.Err }

// Failures are the errors of those results that failed by themselves, each an
// *ImageError.
func Failures(results []Result) []error {
	var out []error
	for _, r := range results {
		if r.Err != nil && !errors.Is(r.Err, ErrStopped) {
			out = append(out, &ImageError{Ref: r.Ref, Err: r.Err})
		}
	}
	return out
}

// unique leaves out repeated references.
func unique(refs []reference.Image) []reference.Image {
	seen := make(map[reference.Image]bool, len(refs))
	var out []reference.Image
	for _, r := range refs {
		if !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	return out
}
