// Package limits has the bounds that foreign input is held to: sizes, counts, depths and times of
// what registries, archives and files contain. They are generous: nothing that is published today
// comes near them. docs/limits.md has them as a table, which a test compares.
package limits

import "time"

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

// Images, archives and layers.
const (
	// ImageBytes is how many bytes the manifests and indexes of one image may have together.
	ImageBytes = 8 << 20
	// Searched is how many manifests and indexes are looked at for an image of one platform.
	Searched = 100
	// ArchiveMembers is how many members an archive may have.
	ArchiveMembers = 2_000_000
	// ArchiveName is the longest name of a member of an archive, in bytes, as of files on Linux.
	ArchiveName = 4096
	// ArchiveListBytes is how large each of an archive's lists may be (index.json,
	// manifest.json, repositories, drayage-since.json), in bytes. They are read as streams.
	ArchiveListBytes = 128 << 20
	// EntryBytes is how large one entry of a list that is read as a stream may be, in bytes.
	EntryBytes = 1 << 20
	// ArchiveNotes is how much memory may be taken by what is noted of an archive, in bytes: its
	// images, the names of its members, its blobs. Ten thousand images with fifty thousand blobs
	// take 35 MiB. For every ArchiveNotesShare bytes of the archive itself it may be one more, up
	// to ArchiveNotesMost.
	ArchiveNotes      = 40 << 20
	ArchiveNotesShare = 8
	ArchiveNotesMost  = 256 << 20
)

// What serve is asked for.
const (
	// PageEntries is how many tags, repositories or referrers are given in one page.
	PageEntries = 10_000
	// Ranges is how many ranges of a blob one request may ask for.
	Ranges = 16
	// QueryBytes is how long the parameters of a request may be, in bytes.
	QueryBytes = 4 << 10
)

// Answers of registries and token servers that are no blobs.
const (
	// HeaderBytes is the largest header of an answer, in bytes, those of 1xx before it included.
	HeaderBytes = 256 << 10
	// ErrorBytes is how much of an error's body is read, in bytes.
	ErrorBytes = 64 << 10
	// TokenBytes is the largest answer of a token server, in bytes.
	TokenBytes = 128 << 10
	// AnswerGrace is how long a manifest, token, list or error may take from its header on before
	// AnswerRate is held against it.
	AnswerGrace = 30 * time.Second
	// AnswerRate is the least that they must come by then, in bytes a second.
	AnswerRate = 1 << 10
	// TagListBytes is the largest list of tags of a registry that knows no pages, in bytes, and all
	// that is kept of the pages of others.
	TagListBytes = 64 << 20
	// NameBytes is the longest name in such a list, in bytes as it is sent.
	NameBytes = 4 << 10
	// Referrers is how many manifests that refer to one are taken.
	Referrers = 1_000
	// ReferrerPages is how many pages of them are asked for.
	ReferrerPages = 100
)

// Files that users have.
const (
	// LoginBytes is the largest file of logins, in bytes.
	LoginBytes = 4 << 20
	// Logins is how many registries it may have.
	Logins = 10_000
	// CertificateBytes is the largest file of certificates or of a key, in bytes.
	CertificateBytes = 4 << 20
	// HostsBytes is the largest hosts.toml, in bytes.
	HostsBytes = 128 << 10
	// HostsDepth is how deep its tables and arrays may lie in each other, and how many parts a
	// key may have.
	HostsDepth = 16
	// HelperBytes is how much of a credential helper's answer is read, in bytes.
	HelperBytes = 1 << 20
)

// What is fetched for clients of a mirror.
const (
	// QuestionTime is how long a registry may take for the whole answer to one question: what a tag
	// stands for, a manifest, a blob's size, a list.
	QuestionTime = 2 * time.Minute
	// TakingTime is how long a registry may take for all answers to whether it has what the store has
	// for others of what one manifest lists.
	TakingTime = 10 * time.Second
	// QuestionsAtOnce is how many questions wait for answers of registries, and QuestionsPerRegistry
	// how many of them for one registry's. Others wait for their turn.
	QuestionsAtOnce      = 64
	QuestionsPerRegistry = 16
	// DocumentsAtOnce is how many manifests are fetched, decoded and kept at a time, and
	// DocumentsPerRegistry how many of them of one registry.
	DocumentsAtOnce      = 16
	DocumentsPerRegistry = 4
	// ListsAtOnce is how many lists of tags or referrers are fetched at a time; one of a registry.
	ListsAtOnce = 4
	// FetchesAtOnce is how many blobs are fetched at a time, and FetchesPerRegistry how many of them
	// of one registry.
	FetchesAtOnce      = 128
	FetchesPerRegistry = 32
	// FetchGrace is how long a blob is fetched on when nobody waits for it any more.
	FetchGrace = 15 * time.Second
	// HandlingBytes is how many bytes of manifests out of the store are decoded at a time.
	HandlingBytes = 16 << 20
	// NeededBelow is how many manifests and blobs are looked at below one manifest, to note what it
	// needs; what is beyond that is found out when it is asked for.
	NeededBelow = 50_000
	// MemoryBytes is about how much of each kind is remembered of what was asked for: what blobs
	// images need, when tags were last looked at, lists of tags,
	// what registries are known to have.
	MemoryBytes = 16 << 20
)
