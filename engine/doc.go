// Package engine pulls container images: from references to verified blobs in a store.
//
// # Where to begin
//
// Open a store (blobstore.Open), make a registry client (registry.New), parse references
// (reference.Parse), and call Pull. Its results say what became of each image; Failures turns them
// into errors, which package fault classifies. Plan reports what Pull would do. Repair brings back
// what the store has lost of an image. NewPullThrough makes what package mirror needs to serve
// images that the store doesn't have. To write what was pulled to an archive, pass the images to
// compose.Images, its result to a layout of package tarwriter, and that to a tarwriter.Output.
//
// The engine prints nothing. It reports what it does to Options.Observer as events of package
// event.
//
// # Promises
//
//   - Every manifest and blob is verified against its digest before it is in the store. Content that
//     does not match never gets there.
//   - A blob is downloaded once, however many images of a run need it, and however many processes
//     pull into the same store at once.
//   - What has arrived is kept: after an error, a cancelled context, a killed process or a power cut,
//     the next Pull resumes each blob where it was, less what arrived since the last checkpoint.
//   - A run ends early only when ctx is done, an image fails (unless Options.KeepGoing is set), the
//     store fails, or nothing has arrived for as long as Retry.Patience allows. A transfer that makes
//     progress is never aborted.
//   - An image is recorded in the store when all of it is there, and not before.
//   - Foreign input is bounded: see package limits.
//
// # Parts
//
// A run is a pull (pull.go) over a fetcher (fetcher.go). resolve.go and package plan find out what
// images need. The fetcher brings each blob from its sources into the store: package schedule
// decides which blob is next and how many connections each host gets, package transfer downloads
// one blob over one or several connections, package registry makes the requests, and the store
// verifies and commits. Pull-through (pullthrough.go) uses the same fetcher.
package engine
