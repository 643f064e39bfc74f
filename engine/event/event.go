// Package event is what the engine says it is doing, to whoever listens:
// progress bars, plain lines, JSON, metrics, traces.
//
// Observers see; they never steer. The JSON form of every event is documented
// in docs/events.md, and scripts rely on it.
package event

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Event is one of the types of this package.
type Event interface {
	// Kind is the event's name in its JSON form.
	Kind() string
}

// Observer is told of every event. Observe is called from many goroutines at
// once and must neither block nor keep the engine waiting.
type Observer interface{ Observe(Event) }

// Observers tells each of several.
type Observers []Observer

// Observe passes e on to each, in order.
func (o Observers) Observe(e Event) {
	for _, each := range o {
		each.Observe(e)
	}
}

// Started opens a run.
type Started struct {
	Images int `json:"images"` // how many were asked for
}

// Resolved says what an image's name stands for and what it needs.
type Resolved struct {
	Image  string        `json:"image"`
	Digest digest.Digest `json:"digest"` // what the name resolved to
	Blobs  int           `json:"blobs"`  // distinct ones
	Size   int64         `json:"size"`   // of them, in bytes
	Here   int64         `json:"here"`   // bytes of them that the store had
}

// Queued says that a blob is to be fetched.
type Queued struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Fetching says that a blob's transfer begins.
type Fetching struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Image  string        `json:"image"` // one that needs it
}

// Waiting says that another process is fetching a blob, and that this one
// waits for it.
type Waiting struct {
	Digest digest.Digest `json:"digest"`
}

// Progress says that bytes of a blob have arrived. N is negative when bytes
// that had arrived are thrown away.
type Progress struct {
	Digest digest.Digest `json:"digest"`
	N      int64         `json:"bytes"`
}

// Resumed says that bytes of a blob are here from an earlier run, checked, and
// won't be fetched.
type Resumed struct {
	Digest digest.Digest `json:"digest"`
	N      int64         `json:"bytes"`
}

// Retrying says that a transfer broke and will be tried again.
type Retrying struct {
	What  string        `json:"what"`
	Why   string        `json:"why"`
	Try   int           `json:"try"` // the number of the try to come; the first was 1
	Delay time.Duration `json:"delay_ns"`
}

// Verified says that all of a blob has arrived and has its digest. What is left
// is to wait for the disk.
type Verified struct {
	Digest digest.Digest `json:"digest"`
}

// Fetched says that a blob is in the store: complete, verified and synced.
type Fetched struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Reused bool          `json:"reused"` // another process fetched it
}

// Failed says that a blob could not be had. Its images fail with it.
type Failed struct {
	Digest digest.Digest `json:"digest"`
	Why    string        `json:"why"`
}

// Pulled says that all of an image is in the store.
type Pulled struct {
	Image   string        `json:"image"`
	Digest  digest.Digest `json:"digest"`
	Fetched int64         `json:"fetched"` // bytes that came over the network for it
	Reused  int64         `json:"reused"`  // bytes that were here, or came for another image
}

// Lost says that an image could not be pulled.
type Lost struct {
	Image string `json:"image"`
	Why   string `json:"why"`
}

// Composing says that an archive is being written.
type Composing struct {
	Output string `json:"output"`
	Size   int64  `json:"size"` // of the archive before compression, known before its first byte
}

// Composed says that N more bytes of an archive are written.
type Composed struct {
	Output string `json:"output"`
	N      int64  `json:"bytes"`
}

// Written says that an archive is complete under its name.
type Written struct {
	Output string `json:"output"`
	Size   int64  `json:"size"`   // after compression
	Cloned int64  `json:"cloned"` // bytes of blobs that the output shares with the store
	Kernel int64  `json:"kernel"` // that the kernel copied, without this process seeing them
	ByHand int64  `json:"byHand"` // that went through this process
}

// Converted says that an image has another manifest in an archive than it had in
// its registry.
type Converted struct {
	Image string        `json:"image"`
	From  digest.Digest `json:"from"`
	To    digest.Digest `json:"to"`
	Why   string        `json:"why"`
}

// Message is a line for people that tells of nothing that went wrong: of drayage's own, or of a
// program that it has run.
type Message struct {
	From    string `json:"from,omitempty"` // the program; "" is drayage
	Message string `json:"message"`
}

// Error says that the run has failed. It is the last event.
type Error struct {
	Status  int    `json:"status"` // the exit status
	Name    string `json:"kind"`   // what the status means, in a word
	Message string `json:"message"`
}

// Warned carries a line for the user: something is odd, and the run goes on.
type Warned struct {
	Message string `json:"message"`
}

// Requested tells of one HTTP exchange, for tracing. URL is without its query,
// and the headers without their secrets.
type Requested struct {
	Method   string              `json:"method"`
	URL      string              `json:"url"`
	Status   int                 `json:"status"` // 0 when no answer came
	Why      string              `json:"why,omitempty"`
	Took     time.Duration       `json:"took_ns"` // until the response's header
	Request  map[string][]string `json:"request,omitempty"`
	Response map[string][]string `json:"response,omitempty"`
}

// Kind implements Event.
func (Started) Kind() string { return "started" }

// Kind implements Event.
func (Resolved) Kind() string { return "resolved" }

// Kind implements Event.
func (Queued) Kind() string { return "queued" }

// Kind implements Event.
func (Fetching) Kind() string { return "fetching" }

// Kind implements Event.
func (Waiting) Kind() string { return "waiting" }

// Kind implements Event.
func (Progress) Kind() string { return "progress" }

// Kind implements Event.
func (Resumed) Kind() string { return "resumed" }

// Kind implements Event.
func (Retrying) Kind() string { return "retrying" }

// Kind implements Event.
func (Verified) Kind() string { return "verified" }

// Kind implements Event.
func (Fetched) Kind() string { return "fetched" }

// Kind implements Event.
func (Failed) Kind() string { return "failed" }

// Kind implements Event.
func (Pulled) Kind() string { return "pulled" }

// Kind implements Event.
func (Lost) Kind() string { return "lost" }

// Kind implements Event.
func (Composing) Kind() string { return "composing" }

// Kind implements Event.
func (Composed) Kind() string { return "composed" }

// Kind implements Event.
func (Written) Kind() string { return "written" }

// Kind implements Event.
func (Converted) Kind() string { return "converted" }

// Kind implements Event.
func (Message) Kind() string { return "message" }

// Kind implements Event.
func (Error) Kind() string { return "error" }

// Kind implements Event.
func (Warned) Kind() string { return "warning" }

// Kind implements Event.
func (Requested) Kind() string { return "request" }
