// Package tarwriter writes archives of container images that docker load, podman load,
// ctr images import and skopeo read, from blobs that are stored as files.
//
// It promises:
//
//   - Reproducible to the byte: the same images make the same archive on any machine and file
//     system, in whatever order they are given. Times are zero, owners are 0, modes are fixed.
//   - Whole or not at all: an archive in a file gets its name when it is complete and on disk. A
//     process that is killed leaves a file whose name ends in .drayage-part, which the next one
//     replaces.
//   - Moved by the kernel: on Linux, without compression, layers do not pass through this process,
//     except into an io.Writer that is not an *os.File. Where source and target are on one file
//     system that can share extents (XFS, Btrfs), they are shared: members of 16 KiB and more
//     start at multiples of 4096 for that. Between other files the kernel copies, and into pipes
//     and sockets, too.
//   - Size known first: [Size] is exact before the first byte is written.
//
// It trusts the descriptors that it is given and hashes nothing; a blob whose size on disk is
// another than that in its descriptor is an error.
//
// # Where to begin
//
// Describe each image by an [Image]; a [Layout] ([Docker], [OCI] or [Legacy]) turns images into
// [Member] values; then choose where they go:
//
//   - [CreateFile] for a file, optionally compressed or split into volumes,
//   - [CreateDir] for a directory,
//   - [Stream] for a pipe or a program,
//   - [Write] for any other [io.Writer].
//
// Each of them reads content from a [Blobs], which may wait for blobs that are still being
// downloaded: a file takes members in any order, so that it is nearly complete when the last blob
// arrives. [Since] leaves out layers that an earlier archive has.
//
// # Order of the files
//
// tarwriter.go has the types; layout.go, legacy.go and since.go define the members;
// write.go writes them in order, position.go in any order, and copy.go moves their bytes;
// file.go, volumes.go, dir.go and stream.go are the outputs, and part.go what those share:
// unfinished files, their locks and their names.
package tarwriter
