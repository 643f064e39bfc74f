// Package limits has the bounds that everything from outside is held to: sizes, counts, depths and
// times of what registries, archives, files and clients give. They are generous: nothing that is
// published today comes near them. docs/limits.md has them as a table, which a test compares.
package limits

// Manifests and indexes.
const (
	// ManifestBytes is the largest manifest, index or config that is read, in bytes: the 4 MiB
	// that the distribution spec asks registries to accept, and clients not to exceed.
	ManifestBytes = 4 << 20
	// Descriptors is how many descriptors a manifest or an index may list.
	Descriptors = 10_000
	// Platforms is how many images of one index are taken.
	Platforms = 1_000
	// Depth is how deep indexes may lie in indexes.
	Depth = 4
)

// JSON from outside, before it is decoded.
const (
	// JSONValues is how many values a document of at most ManifestBytes may have: objects,
	// arrays, strings, numbers, and keys.
	JSONValues = 250_000
	// JSONDepth is how deep they may lie in each other.
	JSONDepth = 64
)

// What registries list.
const (
	// PageBytes is the largest page of tags, repositories or referrers, in bytes.
	PageBytes = 4 << 20
	// Pages is how many pages of one list are asked for.
	Pages = 10_000
	// Tags is how many tags of a repository are taken.
	Tags = 1_000_000
)
