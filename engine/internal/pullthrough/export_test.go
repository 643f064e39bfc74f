package pullthrough

import (
	"time"

	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// Wait waits until nothing is under way.
func (t *Cache) Wait() { t.work.Wait() }

// Within sets for how long a registry's whole answer is waited for.
func (t *Cache) Within(d time.Duration) { t.within = d }

// Taking sets how long all questions about what is below one manifest may take.
func (t *Cache) Taking(d time.Duration) { t.taking = d }

// Proving is how many wait for answers to whether a repository has something.
func (t *Cache) Proving() int { return t.proofs.asking.waiting() }

// Prove notes what a registry said of whether a repository has a blob.
func (t *Cache) Prove(ref reference.Image, d digest.Digest, err error) {
	t.proofs.put(ref, proofKey{repoDigestOf(ref, d), false}, err)
}

// Proven reports whether that is remembered.
func (t *Cache) Proven(ref reference.Image, d digest.Digest) (known bool, err error) {
	p, ok := t.proofs.get(proofKey{repoDigestOf(ref, d), false})
	return ok, p.err
}

// Excluded reports whether a repository is no source for others.
func (t *Cache) Excluded(repository string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.isExcluded(repository)
}

// Grace sets how long a blob is fetched on that nobody waits for.
func (t *Cache) Grace(d time.Duration) { t.grace = d }

// Times are what Within and Grace set.
func (t *Cache) Times() (within, grace time.Duration) { return t.within, t.grace }

// Waiting is how many wait for answers to questions.
func (t *Cache) Waiting() int {
	return t.found.waiting() + t.sizes.waiting() + t.tagLists.waiting() + t.referring.waiting()
}

func (c *calls[T]) waiting() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.under {
		n += q.waiting
	}
	return n
}

// InFlight is how many blobs are being fetched, or wait for their turn.
func (t *Cache) InFlight() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.inFlight)
}

// AgeDown makes it long ago that registries couldn't be asked.
func (t *Cache) AgeDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, at := range t.down {
		t.down[name] = at.Add(-time.Hour)
	}
}
