package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drayage/blobstore"
	"drayage/engine/registry"
	"drayage/engine/transfer"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Target is what is read over and over: the blobs of an image, or what a pull once
// read.
type Target struct {
	Name   string        // as it was given
	Digest digest.Digest // of its manifest, "" for a replay
	Blobs  []ocispec.Descriptor
	HTTP   string // the version of HTTP that was asked for, "" for the usual 1.1

	parts    []part // there may be millions: they have no pointers, which the collector would follow
	wholes   []whole
	schedule []time.Duration // when the parts are due, for a replay
	recorded *Quantiles      // how long they took then
	verify   bool
	disk     *blobstore.Lease // nil where what is read is thrown away
	asked    atomic.Int64     // requests so far, over all steps
	seen     sync.Map         // ranges that were read before
}

// part is a range of a blob.
type part struct {
	blob     int // of the target's wholes
	from, to int64
}

// whole is a blob, and where it is read from.
type whole struct {
	desc   ocispec.Descriptor
	source *registry.Blob
}

// Manner is how targets are read.
type Manner struct {
	// Part is the most that is read at once, in bytes; 0 means whole blobs.
	Part int64
	// Mix, if there is one, are the sizes of reads in place of Part.
	Mix Mix
	// Verify hashes what is read whole.
	Verify bool
	// Disk, if not nil, has what is read written into its store, and synced, as a pull
	// does. Whole blobs whose digest is right are kept.
	Disk *blobstore.Lease
}

// Mix are sizes of reads, and how often each is drawn in comparison with the others.
type Mix []Share

// Share is one size of a Mix.
type Share struct {
	Size   int64 // bytes
	Weight float64
}

// draw draws a size.
func (m Mix) draw(rnd *rand.Rand) int64 {
	var all float64
	for _, s := range m {
		all += s.Weight
	}
	at := rnd.Float64() * all
	for _, s := range m {
		if at -= s.Weight; at < 0 {
			return s.Size
		}
	}
	return m[len(m)-1].Size
}

// NewTarget makes one of an image's blobs, which source gives, in an order drawn from a
// fixed seed.
func NewTarget(name string, d digest.Digest, blobs []ocispec.Descriptor, source func(digest.Digest) *registry.Blob, m Manner) (*Target, error) {
	t := &Target{Name: name, Digest: d, Blobs: blobs, verify: m.Verify, disk: m.Disk}
	for _, b := range blobs {
		if b.Size > 0 {
			t.wholes = append(t.wholes, whole{b, source(b.Digest)})
		}
	}
	if len(t.wholes) == 0 {
		return nil, fmt.Errorf("%s: it has no blobs to read", name)
	}
	rnd := rand.New(rand.NewPCG(1, uint64(len(t.wholes))))
	if len(m.Mix) > 0 {
		t.parts = t.mixed(rnd, m.Mix)
		return t, nil
	}
	for i, w := range t.wholes {
		step := m.Part
		if step <= 0 {
			step = w.desc.Size
		}
		for from := int64(0); from < w.desc.Size; from += step {
			t.parts = append(t.parts, part{i, from, min(w.desc.Size, from+step)})
		}
	}
	rnd.Shuffle(len(t.parts), func(i, j int) { t.parts[i], t.parts[j] = t.parts[j], t.parts[i] })
	return t, nil
}

// mixed draws reads by their sizes. One that is larger than every blob is of the
// largest.
func (t *Target) mixed(rnd *rand.Rand, m Mix) []part {
	const draws = 4096 // after which they come again
	slices.SortFunc(t.wholes, func(a, b whole) int { return cmp.Compare(a.desc.Size, b.desc.Size) })
	var out []part
	for range draws {
		size := min(m.draw(rnd), t.wholes[len(t.wholes)-1].desc.Size)
		fits, _ := slices.BinarySearchFunc(t.wholes, size, func(w whole, size int64) int { return cmp.Compare(w.desc.Size, size) })
		i := fits + rnd.IntN(len(t.wholes)-fits)
		from := rnd.Int64N(t.wholes[i].desc.Size/size) * size
		out = append(out, part{i, from, from + size})
	}
	return out
}

// Read is one read of a replay.
type Read struct {
	Due    time.Duration // after the beginning
	Took   time.Duration // then
	Blob   ocispec.Descriptor
	From   int64
	Source *registry.Blob
}

// NewReplay makes a target of what was once read, each read due at its time.
func NewReplay(name string, reads []Read, m Manner) (*Target, error) {
	reads = slices.DeleteFunc(slices.Clone(reads), func(r Read) bool { return r.From >= r.Blob.Size })
	if len(reads) == 0 {
		return nil, fmt.Errorf("%s: there is nothing to read", name)
	}
	slices.SortStableFunc(reads, func(a, b Read) int { return cmp.Compare(a.Due, b.Due) })
	t := &Target{Name: name, verify: m.Verify, disk: m.Disk}
	took := newTimes()
	seen := make(map[digest.Digest]bool)
	for i, r := range reads {
		t.schedule = append(t.schedule, r.Due)
		t.wholes = append(t.wholes, whole{r.Blob, r.Source})
		t.parts = append(t.parts, part{i, r.From, r.Blob.Size})
		took.add(r.Took)
		if !seen[r.Blob.Digest] {
			seen[r.Blob.Digest] = true
			t.Blobs = append(t.Blobs, r.Blob)
		}
	}
	q := took.quantiles()
	t.recorded = &q
	return t, nil
}

// Size is how many bytes the blobs have.
func (t *Target) Size() int64 {
	var n int64
	for _, b := range t.Blobs {
		n += b.Size
	}
	return n
}

// Reads is how many bytes it takes to read each part once, and how long by the
// schedule of a replay.
func (t *Target) Reads() (bytes int64, within time.Duration) {
	for _, p := range t.parts {
		bytes += p.to - p.from
	}
	if len(t.schedule) > 0 {
		within = t.schedule[len(t.schedule)-1]
	}
	return bytes, within
}

// largest is the size of the largest part.
func (t *Target) largest() int64 {
	var n int64
	for _, p := range t.parts {
		n = max(n, p.to-p.from)
	}
	return n
}

// typical is the mean size of the parts.
func (t *Target) typical() int64 {
	bytes, _ := t.Reads()
	return bytes / int64(len(t.parts))
}

// next gives the n-th request of a step. reserve is asked for its bytes before, and
// may refuse them: then the request does nothing.
func (t *Target) next(n int, reserve func(int64) bool, r *Recorder) Work {
	if t.schedule == nil {
		n = int(t.asked.Add(1)) - 1 // goes on where the last step has stopped
	}
	p := t.parts[n%len(t.parts)]
	return func(ctx context.Context, s *Sample) {
		if !reserve(p.to - p.from) {
			s.Err = errSkipped
			return
		}
		_, again := t.seen.LoadOrStore(p, true)
		s.First = !again
		t.read(ctx, p, s, r)
	}
}

// errSkipped marks samples that are of no request.
const errSkipped = "skipped"

// buffers are read into; what is in them is thrown away.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// read reads a part, and measures it.
func (t *Target) read(ctx context.Context, p part, s *Sample, r *Recorder) {
	w := t.wholes[p.blob]
	s.Host = w.source.Host()
	c := &clock{sample: s}
	body, err := w.source.Open(httptrace.WithClientTrace(ctx, c.trace()), transfer.Ask{From: p.from, To: p.to, Size: w.desc.Size, Once: true})
	c.finish()
	if err != nil {
		s.Err = kind(ctx, err)
		return
	}
	defer body.Close()
	if body.From != p.from {
		s.Err = "ignores ranges"
		return
	}
	out, err := t.output(p)
	if err != nil {
		s.Err = "disk"
		return
	}
	s.Err = t.drain(ctx, p, body, out, s, r)
	if err := out.end(s.Err == ""); err != nil && s.Err == "" {
		s.Err = "disk"
		if errors.Is(err, errContent) {
			s.Err = "wrong content"
		}
	}
}

// drain reads a body to the part's end, and returns what went wrong.
func (t *Target) drain(ctx context.Context, p part, body io.Reader, out *output, s *Sample, r *Recorder) string {
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for left := p.to - p.from; left > 0; {
		n, err := body.Read(buf[:min(left, int64(len(buf)))])
		if n > 0 {
			if s.Bytes == 0 {
				s.FirstByte = time.Since(s.Start)
			}
			s.Bytes += int64(n)
			left -= int64(n)
			r.Bytes(int64(n))
			if err := out.write(buf[:n]); err != nil {
				return "disk"
			}
		}
		if err != nil && left > 0 {
			return kind(ctx, err)
		}
	}
	return ""
}

// output is where the bytes of one read go, if anywhere.
type output struct {
	want  digest.Digest // "" where it isn't known
	hash  digest.Digester
	draft *blobstore.Draft
}

// errContent says that a whole blob has another digest than its own.
var errContent = errors.New("wrong content")

func (t *Target) output(p part) (*output, error) {
	o := new(output)
	blob := t.wholes[p.blob].desc
	if p.from == 0 && p.to == blob.Size && (t.verify || t.disk != nil) {
		o.want, o.hash = blob.Digest, blob.Digest.Algorithm().Digester()
	}
	var err error
	if t.disk != nil {
		o.draft, err = t.disk.Draft()
	}
	return o, err
}

func (o *output) write(b []byte) error {
	if o.hash != nil {
		_, _ = o.hash.Hash().Write(b) // never fails, by its contract
	}
	if o.draft == nil {
		return nil
	}
	_, err := o.draft.Write(b)
	return err
}

// end checks what was read, and has it on the disk, if all of it came.
func (o *output) end(all bool) (err error) {
	if o.draft != nil {
		defer func() { err = errors.Join(err, o.draft.Close()) }()
	}
	switch {
	case !all:
		return nil
	case o.hash != nil && o.hash.Digest() != o.want:
		return errContent
	case o.draft == nil:
		return nil
	}
	if o.want == "" {
		return o.draft.Sync()
	}
	_, err = o.draft.Commit(o.want)
	return err
}

// errCancelled marks samples that the end of the run has cut short.
const errCancelled = "cancelled"

// kind is an error in a word or two.
func kind(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return errCancelled
	case errors.Is(err, registry.ErrQuota):
		return "quota"
	case errors.Is(err, registry.ErrDenied):
		return "denied"
	case errors.Is(err, registry.ErrNotFound):
		return "not found"
	case errors.Is(err, transfer.ErrRange):
		return "no ranges"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut short"
	}
	var e *registry.Error
	if errors.As(err, &e) && e.Status != 0 {
		return fmt.Sprintf("status %d", e.Status)
	}
	return "connection"
}

// clock measures the connections of a request, which may be several where the
// registry redirects. net/http may still call it when the request is over.
type clock struct {
	mu     sync.Mutex
	sample *Sample // nil once it is over

	dns, connect, tls time.Time
}

// with calls f with the sample while the request is under way.
func (c *clock) with(f func(s *Sample, now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sample != nil {
		f(c.sample, time.Now())
	}
}

func (c *clock) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sample = nil
}

func (c *clock) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:      func(host string) { c.with(func(s *Sample, _ time.Time) { s.Host = host }) },
		GotConn:      func(i httptrace.GotConnInfo) { c.with(func(s *Sample, _ time.Time) { s.Fresh = s.Fresh || !i.Reused }) },
		DNSStart:     func(httptrace.DNSStartInfo) { c.with(func(_ *Sample, now time.Time) { c.dns = now }) },
		DNSDone:      func(httptrace.DNSDoneInfo) { c.with(func(s *Sample, now time.Time) { s.DNS += now.Sub(c.dns) }) },
		ConnectStart: func(string, string) { c.with(func(_ *Sample, now time.Time) { c.connect = now }) },
		ConnectDone: func(string, string, error) {
			c.with(func(s *Sample, now time.Time) { s.Connect += now.Sub(c.connect) })
		},
		TLSHandshakeStart: func() { c.with(func(_ *Sample, now time.Time) { c.tls = now }) },
		TLSHandshakeDone: func(state tls.ConnectionState, _ error) {
			c.with(func(s *Sample, now time.Time) {
				s.TLS += now.Sub(c.tls)
				s.HTTP2 = state.NegotiatedProtocol == "h2"
			})
		},
	}
}
