package engine

// Wait waits until nothing is under way.
func (t *Through) Wait() { t.work.Wait() }
