package client

import (
	"net/netip"
	"sync"
)

// Counts bounds what is under way, in all and of one network.
type Counts struct {
	most, mostOfOne int

	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int
}

// NewCounts returns Counts of at most so many in all and of one network.
func NewCounts(most, mostOfOne int) *Counts {
	return &Counts{most: most, mostOfOne: mostOfOne, of: make(map[netip.Prefix]int)}
}

// Enter counts one more of an address, unless there are as many as there may be. Leave must follow.
func (s *Counts) Enter(from Address) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.most || from.Known() && s.of[from.Network] >= s.mostOfOne {
		return false
	}
	s.all++
	s.of[from.Network]++
	return true
}

// Leave counts one less.
func (s *Counts) Leave(from Address) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	Decrement(s.of, from.Network)
}

// Decrement takes one from a number that is kept by addresses, and forgets 0.
func Decrement(of map[netip.Prefix]int, key netip.Prefix) {
	if of[key]--; of[key] <= 0 {
		delete(of, key)
	}
}
