package engine

import "time"

// Wait waits until nothing is under way.
func (t *Through) Wait() { t.work.Wait() }

// Within sets for how long a registry's whole answer is waited for.
func (t *Through) Within(d time.Duration) { t.within = d }

// Grace sets how long a blob is fetched on that nobody waits for.
func (t *Through) Grace(d time.Duration) { t.grace = d }

// Waiting is how many wait for answers to questions.
func (t *Through) Waiting() int {
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

// Flights is how many blobs are being fetched, or wait for their turn.
func (t *Through) Flights() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flights)
}

// AgeDown makes it long ago that registries couldn't be asked.
func (t *Through) AgeDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, at := range t.down {
		t.down[name] = at.Add(-time.Hour)
	}
}
