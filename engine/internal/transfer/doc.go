// Package transfer brings one blob from where it is to where it should be.
//
// The bytes come over one connection or several, each at work on a piece of
// what is missing, and are written where they belong as they arrive. Their hash
// follows the contiguous prefix, the offset before which all is there. What has
// arrived is noted beside the data, so that whoever comes next, in this process
// or a later one, goes on from there: a connection that breaks loses what was
// on the wire, a process that dies hardly more.
//
// # Outline
//
//  1. Run reads what an earlier transfer noted in the sink (internal/record) and
//     takes that for there; all else is missing (internal/interval). While new
//     bytes arrive, what was noted is held against its checksums, and is missing
//     again where it fails (resume.go).
//  2. The primary connection (primary.go) asks the first source for the blob, or
//     for the first range that is missing. Helper connections (helper.go), as
//     many as the scheduler thinks worth their while, take pieces of what nobody
//     fetches, the closest to the prefix first.
//  3. A worker (worker.go) opens a body for its piece (body.go) and reads it
//     into a buffer; the buffer is written, noted, and handed to the hasher
//     (body.go). At the end of the piece the body goes on into what follows, if
//     nobody fetches that.
//  4. The hasher (internal/prefix) takes buffers that are next, and reads back
//     what arrived early. Who is far ahead of it waits.
//  5. When nothing is left that nobody fetches, a worker takes from the slowest
//     what it won't get to for long (pieces.go, by the rules in internal/policy).
//     A connection that is silent, or much too slow, while others move is
//     replaced (watch.go: isSilent and isTooSlow decide).
//  6. When a body breaks, the primary settles what that means (primary.go): go
//     on, ask the next source (internal/rotation), wait, or give up. A source that
//     ignores ranges is read from start to end, over what is there (body.go:
//     passOver). A source that joins meanwhile (join.go) takes part where those
//     that are there are slow.
//  7. When nothing is missing and all is hashed, the digest decides. A wrong one
//     costs one more try from the start, without those who joined, from the next
//     source.
//
// # Who may do what
//
// Everything that changes stands in Transfer, under one lock, which nobody holds
// while bytes are read, written or hashed; whoever changes something tells
// changed. A worker's connection is in one of the states of worker.go, whose
// table says which follows which. Parts that need no lock are packages of their
// own below internal, or types whose methods say that they are called with it.
package transfer
