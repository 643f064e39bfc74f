// Package meter measures how fast a connection is.
package meter

import "time"

// A Meter measures the speed of a connection.
type Meter struct {
	speed float64   // bytes a second, smoothed; 0 while it isn't known
	from  time.Time // the window over which it is measured
	bytes int64
}

// Restart begins a window.
func (m *Meter) Restart(now time.Time) { m.from, m.bytes = now, 0 }

// Count counts bytes that came.
func (m *Meter) Count(n int64, now time.Time) {
	const window, weight = 200 * time.Millisecond, 0.4
	m.bytes += n
	took := now.Sub(m.from)
	if took < window {
		return
	}
	if current := float64(m.bytes) / took.Seconds(); m.speed == 0 {
		m.speed = current
	} else {
		m.speed += (current - m.speed) * weight
	}
	m.Restart(now)
}

// Rate is the speed in bytes a second, 0 while it isn't known. Where nothing
// comes it gets lower as time goes by.
func (m *Meter) Rate(now time.Time) float64 {
	const enough = 50 * time.Millisecond
	if m.from.IsZero() {
		return m.speed
	}
	took := now.Sub(m.from)
	current := float64(m.bytes) / max(took, enough).Seconds()
	switch {
	case m.speed == 0 && took < enough:
		return 0
	case m.speed == 0:
		return current
	case took > time.Second:
		return min(m.speed, current)
	}
	return m.speed
}

// Since is how long ago the last window began.
func (m *Meter) Since(now time.Time) time.Duration { return now.Sub(m.from) }
