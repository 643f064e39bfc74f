package engine

import (
	"drayage/engine/internal/schedule"
	"testing"
	"time"
)

// What was learned is believed for a while from when it last showed, however
// often the file is written since.
func TestHostsAreForgotten(t *testing.T) {
	yes, no := true, false
	l := newLearning(nil)
	l.ranges["serves"], l.ranges["ignores"] = yes, no
	raw := l.merge(nil, map[string]schedule.Findings{"serves": {Connections: 5, Width: 20}, "other": {}}, map[string]time.Duration{"serves": time.Second})
	now := time.Now()
	for _, c := range []struct {
		after           time.Duration
		serves, ignores bool // is remembered to
		connections     int
		firstByte       time.Duration
	}{
		{time.Minute, true, true, 5, time.Second},
		{25 * time.Hour, true, false, 0, time.Second},
		{8 * 24 * time.Hour, false, false, 0, 0},
		{-time.Hour, false, false, 0, 0}, // the clock was wrong then, or is now
	} {
		m := parseHosts(raw, now.Add(c.after))
		s, i := m.Hosts["serves"], m.Hosts["ignores"]
		if (s.Ranges != nil && *s.Ranges) != c.serves || (i.Ranges != nil && !*i.Ranges) != c.ignores || s.Connections != c.connections || s.FirstByte != c.firstByte {
			t.Errorf("after %v: %+v, %+v", c.after, s, i)
		}
		if _, ok := m.Hosts["other"]; ok {
			t.Error("a host is remembered of which nothing is known")
		}
	}
	// A run that learns nothing new refreshes nothing.
	before := parseHosts(raw, now).Hosts["ignores"].RangesSeen
	again := newLearning(raw).merge(raw, map[string]schedule.Findings{"ignores": {}}, nil)
	if seen := parseHosts(again, now).Hosts["ignores"].RangesSeen; !seen.Equal(before) {
		t.Errorf("seen at %v, and was at %v", seen, before)
	}
	if m := parseHosts([]byte("rubbish"), now); len(m.Hosts) != 0 {
		t.Errorf("%+v", m)
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte(`{"version":1,"hosts":{"h":{"ranges":true,"ranges_seen":"2026-01-02T03:04:05Z","connections":-5}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for name, h := range parseHosts(raw, time.Unix(1767323045, 0)).Hosts {
			if h.Connections < 0 || h.FirstByte < 0 {
				t.Errorf("%s: %+v", name, h)
			}
		}
	})
}
