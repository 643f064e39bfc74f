package engine

import "time"

// Wait waits until nothing is under way.
func (t *Through) Wait() { t.work.Wait() }

// AgeDown makes it long ago that registries couldn't be asked.
func (t *Through) AgeDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, at := range t.down {
		t.down[name] = at.Add(-time.Hour)
	}
}
