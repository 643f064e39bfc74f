package engine

import "time"

// Wait waits until nothing is under way.
func (t *Through) Wait() { t.work.Wait() }

// Within sets for how long a registry's whole answer is waited for.
func (t *Through) Within(d time.Duration) { t.within = d }

// Grace sets how long a blob is fetched on that nobody waits for.
func (t *Through) Grace(d time.Duration) { t.grace = d }

// AgeDown makes it long ago that registries couldn't be asked.
func (t *Through) AgeDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, at := range t.down {
		t.down[name] = at.Add(-time.Hour)
	}
}
