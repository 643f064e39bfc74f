// Package bench measures how fast registries deliver blobs, and whether one
// delivers them faster than another.
//
// # Where to begin
//
// resolve finds the blobs of an image and makes a Target of them. Measure reads
// from one or several targets, as Options say, and returns a Report, which writes
// itself as JSON, CSV, benchstat lines, or an HTML page with plots. ReadReport and
// Report.Regressions compare today's report with an earlier one. The package
// example does all of that in one program.
//
// NewTarget makes a target of blobs that are already known, and NewReplay one of
// the reads of an earlier pull, each at its original time.
//
// # Promises
//
//   - Measure only reads, and discards what it reads unless TargetOptions.Store is
//     set. It requests no more than Options.Bytes, and starts no request after
//     Options.Duration. Options.Cost is known beforehand.
//   - All settings take turns in each round, so that changes of the network affect
//     all of them alike. Reads are not retried; failed reads count as errors and
//     contribute to no other figure.
//   - In an open loop (Options.Rate) latency counts from the time at which a read
//     was due, so that a stall cannot hide the reads that it delayed.
//   - A difference is called significant when its p-value is at most 0.05, and a
//     target with more errors is never called faster.
//   - The JSON form of a report is versioned. Fields may be added to it; files of
//     the same version remain readable.
//
// # Outline
//
// options.go divides bytes and time among the steps, measure.go runs them by
// internal/load, read.go makes a single read and trace.go times its connections,
// recorder.go collects samples, and results.go makes a report of them, computed
// with internal/stats. page.go and the plot_ files, with internal/drawing, write
// the HTML page.
package bench
