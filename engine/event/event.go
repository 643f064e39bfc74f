// Package event defines the events by which the engine reports what it does to observers: progress
// bars, lines, JSON, metrics, traces. Observers do not influence the engine.
//
// The JSON form of every event is documented in docs/events.md, and scripts rely on it. Sizes are in
// bytes. All text may come from registries and other programs: whoever prints it must escape it.
package event

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Event is one of the types of this package.
type Event interface{ kind() string }

// Kind is the name of an event in its JSON form.
func Kind(e Event) string { return e.kind() }

// Observer receives every event. Observe is called from several goroutines at a time and must return
// at once: the engine waits for it.
type Observer interface{ Observe(Event) }

// Observers passes every event to several observers.
type Observers []Observer

// Observe calls each observer, in order.
func (o Observers) Observe(e Event) {
	for _, each := range o {
		each.Observe(e)
	}
}

// Started is the first event of a run.
type Started struct {
	Images int `json:"images"` // number requested
}

// Resolved reports what a reference refers to and what it needs.
type Resolved struct {
	Image  string        `json:"image"`
	Digest digest.Digest `json:"digest"` // of the manifest or index
	Blobs  int           `json:"blobs"`  // number of distinct blobs
	Size   int64         `json:"size"`   // of these blobs
	Here   int64         `json:"here"`   // size of those that are local
}

// Queued reports that a blob is to be downloaded.
type Queued struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Fetching reports that the transfer of a blob begins.
type Fetching struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Image  string        `json:"image"` // one of those that need it
}

// Waiting reports that another process is downloading a blob, and that this process waits for it.
type Waiting struct {
	Digest digest.Digest `json:"digest"`
}

// Progress reports that N bytes of a blob have arrived. N is negative when bytes that had arrived are
// discarded.
type Progress struct {
	Digest digest.Digest `json:"digest"`
	N      int64         `json:"bytes"`
}

// Resumed reports that N bytes of a blob from an earlier run were verified and are not downloaded. N is
// negative when they are discarded after all.
type Resumed struct {
	Digest digest.Digest `json:"digest"`
	N      int64         `json:"bytes"`
}

// Retrying reports that a request or transfer failed and will be retried.
type Retrying struct {
	What  string        `json:"what"`     // what failed, such as a blob's digest
	Why   string        `json:"why"`      // the error
	Try   int           `json:"try"`      // number of the next attempt; the first was 1
	Delay time.Duration `json:"delay_ns"` // until the next attempt
}

// Verified reports that all bytes of a blob have arrived and match its digest. The blob is being synced
// to disk.
type Verified struct {
	Digest digest.Digest `json:"digest"`
}

// Fetched reports that a blob is in the store: complete, verified and on disk.
type Fetched struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Reused bool          `json:"reused"` // another process downloaded it
}

// Failed reports that a blob could not be downloaded. The images that need it fail, too.
type Failed struct {
	Digest digest.Digest `json:"digest"`
	Why    string        `json:"why"`
}

// Pulled reports that all blobs of an image are in the store.
type Pulled struct {
	Image   string        `json:"image"`
	Digest  digest.Digest `json:"digest"`
	Fetched int64         `json:"fetched"` // bytes downloaded for it
	Reused  int64         `json:"reused"`  // bytes that were local or downloaded for another image
}

// Lost reports that an image could not be pulled.
type Lost struct {
	Image string `json:"image"`
	Why   string `json:"why"`
}

// Composing reports that an archive is being written, perhaps while blobs are still downloading.
type Composing struct {
	Output string `json:"output"` // file, directory or program
	Size   int64  `json:"size"`   // of the archive, before compression
}

// Composed reports that N more bytes of an archive, before compression, are written.
type Composed struct {
	Output string `json:"output"`
	N      int64  `json:"bytes"`
}

// Written reports that an archive is complete and has its name.
type Written struct {
	Output    string `json:"output"`
	Size      int64  `json:"size"`      // after compression
	Cloned    int64  `json:"cloned"`    // bytes of blobs whose extents the output shares with the store
	Kernel    int64  `json:"kernel"`    // bytes that the kernel copied
	ByHand    int64  `json:"byHand"`    // bytes that this process copied
	Unchanged bool   `json:"unchanged"` // it existed with the same bytes, and was not written
}

// Converted reports that the manifest of an image in an archive differs from the one in the registry.
type Converted struct {
	Image string        `json:"image"`
	From  digest.Digest `json:"from"`
	To    digest.Digest `json:"to"`
	Why   string        `json:"why"`
}

// Message is text for people that is neither a warning nor an error: a result of drayage, or output of
// a program that it has run.
type Message struct {
	From    string `json:"from,omitempty"` // the program; "" is drayage
	Message string `json:"message"`
}

// Error reports that the run has failed. It is the last event.
type Error struct {
	Status  int    `json:"status"` // the exit status
	Name    string `json:"kind"`   // meaning of the status, in one word
	Message string `json:"message"`
}

// Warned reports that something is unusual; the run continues.
type Warned struct {
	Message string `json:"message"`
}

// Requested describes one HTTP exchange, for tracing. The URL has no query, and secrets in headers are
// redacted.
type Requested struct {
	Method   string              `json:"method"`
	URL      string              `json:"url"`
	Status   int                 `json:"status"` // 0 when there was no response
	Why      string              `json:"why,omitempty"`
	Took     time.Duration       `json:"took_ns"` // until the header of the response
	Request  map[string][]string `json:"request,omitempty"`
	Response map[string][]string `json:"response,omitempty"`
}

func (Started) kind() string   { return "started" }
func (Resolved) kind() string  { return "resolved" }
func (Queued) kind() string    { return "queued" }
func (Fetching) kind() string  { return "fetching" }
func (Waiting) kind() string   { return "waiting" }
func (Progress) kind() string  { return "progress" }
func (Resumed) kind() string   { return "resumed" }
func (Retrying) kind() string  { return "retrying" }
func (Verified) kind() string  { return "verified" }
func (Fetched) kind() string   { return "fetched" }
func (Failed) kind() string    { return "failed" }
func (Pulled) kind() string    { return "pulled" }
func (Lost) kind() string      { return "lost" }
func (Composing) kind() string { return "composing" }
func (Composed) kind() string  { return "composed" }
func (Written) kind() string   { return "written" }
func (Converted) kind() string { return "converted" }
func (Message) kind() string   { return "message" }
func (Error) kind() string     { return "error" }
func (Warned) kind() string    { return "warning" }
func (Requested) kind() string { return "request" }
