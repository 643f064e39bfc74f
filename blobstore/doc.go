// Package blobstore stores verified blobs in a folder that is a valid OCI image layout, so that any
// OCI tool can read it.
//
// # Promises
//
//   - Verified: a file under blobs/ has the content that its name says. Nothing gets a digest's name
//     without having been hashed here: by a [Draft] as it is written, or by a hash of the [Ingest].
//   - Crash-safe: that holds at every moment, kill -9 and power cuts included. A blob is synced before
//     it is renamed into place, and the folder is synced after. Small files are replaced, not
//     rewritten: after a crash they are the old one or the new one. [Options] can give up the syncs.
//   - Resumable: what has arrived of a large blob, and was recorded by [Ingest.Note], is found again by
//     the next ingest of the same blob, by whichever process.
//   - Kept while in use: what was found or added under a [Lease] is not collected until the lease ends,
//     by Close or with its process. What an image lists stays as long as its [Root].
//   - Shared: any number of processes may use one store at once. They agree by advisory locks, which
//     the kernel releases when a process dies; one process at a time writes a blob, and the others wait.
//
// What the disk changes by itself is found when a blob's file was modified since it was verified, and
// otherwise by [Store.Verify]. The file system must have locks and atomic renames, which some network
// shares don't.
//
// # Where to begin
//
// [Open] opens or creates a store, and [Peek] opens one for reading only. Reading is on [Store]:
// Stat, Has, Open, Read. Adding takes a [Lease]: [Lease.Put] for small blobs in memory,
// [Lease.Ingest] for blobs whose digest is known beforehand and that arrive in any order,
// [Lease.Draft] for those whose digest is known only at the end. [Lease.Pin] records an image with
// all that it needs. [Store.FindGarbage] plans what can be deleted, and [Store.Sweep] deletes it.
//
// Package quota keeps a store below a number of bytes while blobs are added.
//
// # Concurrency
//
// The methods of Store and Lease may be called from several goroutines. Ingest and Draft say for
// themselves what may run beside what. A sweep is safe beside everything else.
package blobstore
