package engine

import (
	"encoding/json"
	"errors"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/engine/internal/schedule"
	"drayage/engine/registry"
)

// hostMemory is what runs have learned of hosts, as the store keeps it. It is
// forgotten with time, for servers and lines change.
type hostMemory struct {
	Version int                   `json:"version"`
	Hosts   map[string]hostHabits `json:"hosts"`
}

// hostHabits are one host's.
type hostHabits struct {
	// Ranges is whether the host serves ranges of blobs; absent when nobody
	// has asked it for one.
	Ranges     *bool     `json:"ranges,omitempty"`
	RangesSeen time.Time `json:"ranges_seen,omitzero"` // when it last showed
	// Connections is how many were worth it; 0 when that isn't known.
	Connections     int       `json:"connections,omitempty"`
	ConnectionsSeen time.Time `json:"connections_seen,omitzero"`
	// Width is how many were worth it at many blobs; 0 when that isn't known.
	Width     int       `json:"width,omitempty"`
	WidthSeen time.Time `json:"width_seen,omitzero"`
	// FirstByte is how long the host may take to begin to send a blob.
	FirstByte     time.Duration `json:"first_byte_ns,omitempty"`
	FirstByteSeen time.Time     `json:"first_byte_seen,omitzero"`
}

const (
	hostMemoryVersion = 1
	hostMemoryMost    = 1000               // hosts
	rangesFor         = 7 * 24 * time.Hour // how long it is believed that a host serves ranges
	firstByteFor      = 7 * 24 * time.Hour // and that it takes its time
	noRangesFor       = 24 * time.Hour     // and that it doesn't
	connectionsFor    = 24 * time.Hour     // and how many connections are worth it
)

// parseHosts reads what was kept. What can't be read is as if absent, and so is
// what is too old.
func parseHosts(raw []byte, now time.Time) hostMemory {
	m := hostMemory{Version: hostMemoryVersion}
	var read hostMemory
	if json.Unmarshal(raw, &read) != nil || read.Version != hostMemoryVersion {
		read.Hosts = nil
	}
	m.Hosts = make(map[string]hostHabits, len(read.Hosts))
	for name, h := range read.Hosts {
		recent := func(seen time.Time, most time.Duration) bool {
			age := now.Sub(seen)
			return age >= 0 && age <= most
		}
		if h.Ranges != nil && !recent(h.RangesSeen, rangesFor) || h.Ranges != nil && !*h.Ranges && !recent(h.RangesSeen, noRangesFor) {
			h.Ranges, h.RangesSeen = nil, time.Time{}
		}
		if h.Connections < 0 || !recent(h.ConnectionsSeen, connectionsFor) {
			h.Connections, h.ConnectionsSeen = 0, time.Time{}
		}
		if h.Width < 0 || !recent(h.WidthSeen, connectionsFor) {
			h.Width, h.WidthSeen = 0, time.Time{}
		}
		if h.FirstByte < 0 || !recent(h.FirstByteSeen, firstByteFor) {
			h.FirstByte, h.FirstByteSeen = 0, time.Time{}
		}
		if h != (hostHabits{}) && len(m.Hosts) < hostMemoryMost {
			m.Hosts[name] = h
		}
	}
	return m
}

// learning is what a run finds out of hosts.
type learning struct {
	mu     sync.Mutex
	before hostMemory
	ranges map[string]bool
}

func newLearning(kept []byte) *learning {
	return &learning{before: parseHosts(kept, time.Now()), ranges: make(map[string]bool)}
}

// teach tells a queue and a client what earlier runs have found out.
func (l *learning) teach(q *schedule.Queue, c *registry.Client) {
	for name, h := range l.before.Hosts {
		q.Learn(name, schedule.Findings{Ranges: h.Ranges != nil && *h.Ranges, Connections: h.Connections, Width: h.Width})
		c.Learn(name, h.FirstByte)
	}
}

// ignoresRanges reports whether a host is known to give whole blobs only.
func (l *learning) ignoresRanges(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if yes, ok := l.ranges[host]; ok {
		return !yes
	}
	r := l.before.Hosts[host].Ranges
	return r != nil && !*r
}

func (l *learning) ranged(host string, yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ranges) >= hostMemoryMost { // a registry may redirect to ever new ones
		clear(l.ranges)
	}
	l.ranges[host] = yes
}

// merge adds what this run has found out to what is kept now.
func (l *learning) merge(old []byte, found map[string]schedule.Findings, firstByte map[string]time.Duration) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	m := parseHosts(old, now)
	change := func(name string, f func(h *hostHabits)) {
		h := m.Hosts[name]
		f(&h)
		m.Hosts[name] = h
	}
	for name, yes := range l.ranges {
		change(name, func(h *hostHabits) { h.Ranges, h.RangesSeen = &yes, now })
	}
	for name, f := range found {
		if f.Connections > 0 {
			change(name, func(h *hostHabits) { h.Connections, h.ConnectionsSeen = f.Connections, now })
		}
		if f.Width > 0 {
			change(name, func(h *hostHabits) { h.Width, h.WidthSeen = f.Width, now })
		}
	}
	for name, d := range firstByte {
		if d > 0 {
			change(name, func(h *hostHabits) { h.FirstByte, h.FirstByteSeen = d, now })
		}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return old // its types can all be marshalled
	}
	return raw
}

// Remember keeps in a store what was found out of a host without a pull: whether it
// serves ranges of blobs, and how long it takes to begin to send one.
func Remember(store *blobstore.Store, host string, ranges bool, firstByte time.Duration) (err error) {
	lease, err := store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	l := newLearning(nil)
	l.ranged(host, ranges)
	return lease.KeepHosts(func(old []byte) []byte {
		return l.merge(old, nil, map[string]time.Duration{host: firstByte})
	})
}
