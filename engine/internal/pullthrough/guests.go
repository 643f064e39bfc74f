package pullthrough

import (
	"context"
	"errors"
	"hash/maphash"
	"io"
	"time"

	"drayage/engine/internal/transfer"
)

// stretch is what one answer of an origin gave of a blob, as far as it was read.
type stretch struct {
	from, n int64
	sum     maphash.Hash
}

// errExcluded is why a source isn't asked.
var errExcluded = errors.New("not asked: it has served content that does not match a digest")

// proving is an origin's source. It tells when it has given its first answer, and what it gives is
// remembered, so that it can be told who gave what was wrong.
type proving struct {
	transfer.Source
	fetch  *inFlight
	origin *origin
}

// Open implements transfer.Source.
func (s proving) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	if s.origin.excluded.Load() {
		return nil, errExcluded
	}
	b, err := s.Source.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	out := *b
	out.ReadCloser = &given{b.ReadCloser, s.origin, s.fetch.gives(s.origin, b.From)}
	return &out, nil
}

// given is a body of an origin.
type given struct {
	io.ReadCloser
	origin  *origin
	stretch *stretch
}

// Read implements io.Reader.
func (g *given) Read(p []byte) (int, error) {
	if g.origin.excluded.Load() {
		return 0, errExcluded
	}
	n, err := g.ReadCloser.Read(p)
	if g.origin.excluded.Load() { // while it was read
		return 0, errExcluded
	}
	g.stretch.n += int64(n)
	if g.origin.guest {
		_, _ = g.stretch.sum.Write(p[:n]) // never fails
	}
	return n, err
}

// gives notes that an origin has answered, and so has the blob.
func (f *inFlight) gives(o *origin, from int64) *stretch {
	const most = 1000 // answers of one origin whose content is remembered
	s := &stretch{from: from}
	s.sum.SetSeed(f.seed)
	f.mu.Lock()
	defer f.mu.Unlock()
	o.known = true
	if len(o.given) < most {
		o.given = append(o.given, s)
	}
	f.changed.Broadcast()
	return s
}

// throw notes that all that was given was thrown away, for it was not what it should be. The caller
// holds f.mu; nobody reads meanwhile.
func (f *inFlight) throw() {
	for _, o := range f.origins {
		if o.guest {
			o.thrown = append(o.thrown, o.given...)
		}
		o.given = nil
	}
}

// judge finds out which guests gave content that was thrown away and differs from the blob, which
// is whole now and has its digest. That all was thrown away alone is no guest's fault: others may
// have spoiled it.
func (f *inFlight) judge(blob io.ReaderAt) (wrong []*origin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.origins {
		for _, s := range o.thrown {
			if !f.matches(blob, s) {
				o.wrong = true
				wrong = append(wrong, o)
				break
			}
		}
		o.thrown = nil
	}
	return wrong
}

// matches reports whether what was given is what the blob has there. What can't be read says
// nothing of it.
func (f *inFlight) matches(blob io.ReaderAt, s *stretch) bool {
	if s.from+s.n > f.desc.Size {
		return false
	}
	var h maphash.Hash
	h.SetSeed(f.seed)
	n, err := io.Copy(&h, io.NewSectionReader(blob, s.from, s.n))
	return err != nil || n < s.n || h.Sum64() == s.sum.Sum64()
}

// spoilers are the origins that must have given what is wrong, of all that has come since all was
// thrown away last: nobody knows when several gave some of it.
func (f *inFlight) spoilers(first *origin) []*origin {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*origin
	for _, o := range f.origins {
		for _, s := range o.given {
			if s.n > 0 {
				out = append(out, o)
				break
			}
		}
	}
	switch len(out) {
	case 0: // it was by what it says of the blob
		out = []*origin{first}
	case 1:
	default:
		return nil
	}
	out[0].wrong = true
	return out
}

// judge excludes the guests of an in-flight fetch that are known now to have given wrong content.
func (t *Cache) judge(f *inFlight) error {
	if !f.hasThrown() {
		return nil
	}
	blob, err := t.opts.Store.Open(f.desc.Digest)
	if err != nil {
		return err
	}
	wrong := f.judge(blob)
	if err := blob.Close(); err != nil {
		return err
	}
	for _, o := range wrong {
		t.exclude(o)
	}
	return nil
}

// exclude keeps a repository that has given wrong content out of what is fetched for others, now
// and for a while: of its blobs and of all others that it says it has.
func (t *Cache) exclude(o *origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const entry = 200 // bytes, or about that
	now := time.Now()
	size := int64(len(o.at.repository) + len(o.at.digest) + entry)
	t.wrong.put(o.at, now, size)
	t.spoiled.put(o.at.repository, now, size)
	for _, f := range t.inFlight {
		if other := f.of(o.at.repository); other != nil && other.guest {
			other.excluded.Store(true)
		}
	}
}

// isExcluded reports whether a repository has given wrong content a while ago. The caller holds
// t.mu.
func (t *Cache) isExcluded(repository string) bool {
	const long = 10 * time.Minute
	at, ok := t.spoiled.get(repository)
	return ok && time.Since(at) < long
}
