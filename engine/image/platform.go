package image

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"drayage/engine/fault"
	"drayage/engine/printable"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform says for what machine an image is wanted.
type Platform struct {
	spec ocispec.Platform
	// Explicit is set when a person named the platform: then an image for
	// another is refused, where the default takes it with a warning.
	Explicit bool
}

// DefaultPlatform is Linux on this machine's architecture, since images for
// Linux are what other systems run as well.
func DefaultPlatform() Platform {
	return Platform{spec: platforms.Normalize(ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH})}
}

// ParsePlatform reads OS[(VERSION)]/ARCH[/VARIANT], with the aliases that uname and
// others use, such as x86_64 and aarch64. A lone ARCH means linux.
func ParsePlatform(s string) (Platform, error) {
	if !strings.Contains(s, "/") {
		s = "linux/" + s
	}
	if strings.ContainsAny(s, "*") {
		return Platform{}, fmt.Errorf("platform %q: name one OS/ARCH[/VARIANT]", s)
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return Platform{}, fmt.Errorf("platform %q: want OS/ARCH[/VARIANT], such as linux/arm64", s)
	}
	return Platform{spec: platforms.Normalize(p), Explicit: true}, nil
}

// String is the platform as OS[(VERSION)]/ARCH[/VARIANT], which ParsePlatform reads.
func (p Platform) String() string { return platforms.FormatAll(p.spec) }

// Matches reports whether an image for q runs where p is wanted: the same
// system and architecture, and the same variant or an older one.
func (p Platform) Matches(q ocispec.Platform) bool {
	q = platforms.Normalize(q)
	if p.spec.OS == "windows" {
		// Containers there need the host's own build, which isn't known here. Without one
		// asked for, any will do, and some tell none.
		return q.OS == p.spec.OS && q.Architecture == p.spec.Architecture && (p.spec.OSVersion == "" || strings.HasPrefix(q.OSVersion+".", p.spec.OSVersion+"."))
	}
	// The comparer also takes related architectures (386 where amd64 is
	// wanted, arm for arm64), which is a surprise to whoever named one.
	return q.Architecture == p.spec.Architecture && platforms.Only(p.spec).Match(q)
}

// NoPlatformError says that an index has no image for the platform wanted.
type NoPlatformError struct {
	Want string
	Have []string // what there is, as OS/ARCH[/VARIANT]
	// Untold are images that don't tell their platforms, by names that have their digests.
	Untold []string
}

func (e *NoPlatformError) Error() string {
	text := "no image for platform " + e.Want
	untold := "the index doesn't tell the platforms of its images, choose one by its digest: " + listed(e.Untold)
	switch {
	case len(e.Have) == 0 && len(e.Untold) == 0:
		return text + ": the index has no images"
	case len(e.Have) == 0:
		return text + ": " + untold
	case len(e.Untold) == 0:
		return text + ": there is " + listed(e.Have)
	}
	return text + ": there is " + listed(e.Have) + ", and else " + untold
}

// FaultKind is its kind: see fault.Of.
func (*NoPlatformError) FaultKind() fault.Kind { return fault.NotFound }

// listed is a list of which the end is cut off when it is long.
func listed(names []string) string {
	const most = 20
	if len(names) > most {
		return fmt.Sprintf("%s, and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// Ambiguous lists the versions of the system for which an index has images that serve p; it is
// empty unless there are several, of which Choose takes the newest.
func Ambiguous(ix *ocispec.Index, p Platform) []string {
	var out []string
	for _, d := range Children(ix) {
		if d.Platform != nil && p.Matches(*d.Platform) && !slices.Contains(out, d.Platform.OSVersion) {
			out = append(out, d.Platform.OSVersion)
		}
	}
	if len(out) < 2 {
		return nil
	}
	slices.SortFunc(out, func(a, b string) int { return -compareVersions(a, b) })
	return out
}

// compareVersions compares versions such as 10.0.20348.2113, number by number.
func compareVersions(a, b string) int {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.Atoi(as[i])
		y, errY := strconv.Atoi(bs[i])
		if errX != nil || errY != nil {
			if c := strings.Compare(as[i], bs[i]); c != 0 {
				return c
			}
			continue
		}
		if x != y {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(len(as), len(bs))
}

// NotImage is the error for an index that lists nothing but blobs: it says what it is instead of an
// image.
func NotImage(ix *ocispec.Index) error {
	return fault.New(fault.NotFound, "this is "+looseKind(ix)+", and not an image (--all-platforms --format oci copies it)")
}

// Loose are the blobs that an index lists itself: what is no manifest. BuildKit's caches have
// their layers there. The image spec wants unknown types to be no error.
func Loose(ix *ocispec.Index) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, d := range ix.Manifests {
		if !mayBeManifest(d.MediaType) {
			out = append(out, d)
		}
	}
	return out
}

// looseKind says what an index is that lists nothing but blobs.
func looseKind(ix *ocispec.Index) string {
	for _, d := range ix.Manifests {
		if strings.HasPrefix(d.MediaType, "application/vnd.buildkit.cacheconfig.") {
			return "a build cache"
		}
	}
	return "an index of " + printable.Line(ix.Manifests[0].MediaType)
}

// mayBeManifest reports whether a descriptor of an index may be of a manifest, by its media
// type.
func mayBeManifest(mediaType string) bool {
	return mediaType == "" || slices.Contains(MediaTypes(), mediaType) || strings.Contains(mediaType, ".manifest.") || strings.Contains(mediaType, ".index.")
}

// Choose orders an index's children by how well they serve p: matching
// manifests, best variant first; then nested indexes, which may hold one; then
// a sole manifest that tells no platform. Children that can't serve are left
// out, and attestations always are.
func Choose(ix *ocispec.Index, p Platform) []ocispec.Descriptor {
	order := platforms.Only(p.spec)
	var exact, nested, untold []ocispec.Descriptor
	for _, d := range Children(ix) {
		fits := d.Platform != nil && p.Matches(*d.Platform)
		switch {
		case isIndexType(d.MediaType):
			if fits || d.Platform == nil {
				nested = append(nested, d)
			}
		case fits:
			exact = append(exact, d)
		case d.Platform == nil:
			untold = append(untold, d)
		}
	}
	slices.SortStableFunc(exact, func(a, b ocispec.Descriptor) int {
		if p.spec.OS == "windows" {
			return -compareVersions(a.Platform.OSVersion, b.Platform.OSVersion)
		}
		x, y := platforms.Normalize(*a.Platform), platforms.Normalize(*b.Platform)
		switch {
		case order.Less(x, y):
			return -1
		case order.Less(y, x):
			return 1
		}
		return 0
	})
	out := append(exact, nested...)
	if len(out) == 0 && len(untold) == 1 {
		return untold
	}
	return out
}

// Children are an index's manifests less the attestations that BuildKit puts
// beside each image.
func Children(ix *ocispec.Index) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(ix.Manifests), func(d ocispec.Descriptor) bool {
		return d.Annotations[dockerReferenceType] != "" || !mayBeManifest(d.MediaType) ||
			d.Platform != nil && IsUnknown(*d.Platform)
	})
}

// Untold are the images of an index for which it tells no platform.
func Untold(ix *ocispec.Index) []ocispec.Descriptor {
	return slices.DeleteFunc(Children(ix), func(d ocispec.Descriptor) bool { return d.Platform != nil || isIndexType(d.MediaType) })
}

// IsUnknown reports whether a platform is the one that attestations have.
func IsUnknown(p ocispec.Platform) bool {
	return p.OS == unknownPlatformField && p.Architecture == unknownPlatformField
}

// Platforms lists what an index has, sorted, each once.
func Platforms(ix *ocispec.Index) []string {
	var out []string
	for _, d := range Children(ix) {
		if d.Platform != nil {
			out = append(out, printable.Line(platforms.Format(*d.Platform)))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ConfigPlatform reads the platform that an image's config tells. It is the
// zero Platform when the config tells none.
func ConfigPlatform(config []byte) (ocispec.Platform, error) {
	var p ocispec.Platform
	if err := decodeJSON(config, &p, ocispec.Image{}); err != nil {
		return ocispec.Platform{}, fmt.Errorf("reading the image's config: %w", err)
	}
	return p, nil
}

func isIndexType(mediaType string) bool {
	return mediaType == DockerList || mediaType == ocispec.MediaTypeImageIndex
}

// FormatPlatform is a platform as OS[(VERSION)]/ARCH[/VARIANT].
func FormatPlatform(p ocispec.Platform) string { return printable.Line(platforms.FormatAll(p)) }
