package warm

import (
	"hash/fnv"
	"time"
)

// next is when a group's round is due after a moment. Jitter is the same for the same
// round, and differs between groups and machines.
func (c *Config) next(g *Group, after time.Time, salt string) time.Time {
	var due time.Time
	if g.Schedule.Schedule != nil {
		due = g.Schedule.Next(after.In(c.location()))
	} else {
		every := time.Duration(g.Every)
		due = after.Truncate(every).Add(every)
	}
	return due.Add(jitter(time.Duration(g.Jitter), g.Name+salt+due.UTC().Format(time.RFC3339)))
}

// jitter is some share of a duration, drawn by a text.
func jitter(most time.Duration, by string) time.Duration {
	if most <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(by)) // never fails, by its contract
	return time.Duration(h.Sum64() % uint64(most))
}

// on is the moment of a time of the day, on the day of another moment.
func (t TimeOfDay) on(day time.Time) time.Time {
	m := int(t) - 1
	return moment(time.Date(day.Year(), day.Month(), day.Day(), m/60, m%60, 0, 0, time.UTC), day.Location())
}

// contains reports whether a moment is within a window.
func (w Window) contains(now time.Time) bool {
	from, to := w.From.on(now), w.To.on(now)
	if w.From < w.To {
		return !now.Before(from) && now.Before(to)
	}
	return !now.Before(from) || now.Before(to)
}

// rate is how fast may be fetched at a moment, and until when that is so: the zero time
// when it is always so. Of several windows the first counts.
func (c *Config) rate(now time.Time) (Rate, time.Time) {
	if len(c.Windows.List) == 0 {
		return c.Windows.Else, time.Time{}
	}
	now = now.In(c.location())
	rate := c.Windows.Else
	for _, w := range c.Windows.List {
		if w.contains(now) {
			rate = w.Rate
			break
		}
	}
	// It changes at one of the windows' edges, today or tomorrow.
	var until time.Time
	for _, w := range c.Windows.List {
		for _, edge := range []TimeOfDay{w.From, w.To} {
			for day := range 2 {
				at := edge.on(now.AddDate(0, 0, day))
				if at.After(now) && (until.IsZero() || at.Before(until)) {
					until = at
				}
			}
		}
	}
	return rate, until
}

// deadline is when a round that begins now should have ended, the zero time when that
// doesn't matter.
func (c *Config) deadline(g *Group, now time.Time) time.Time {
	if g.FinishBy == 0 {
		return time.Time{}
	}
	now = now.In(c.location())
	at := g.FinishBy.on(now)
	if !at.After(now) {
		at = g.FinishBy.on(now.AddDate(0, 0, 1))
	}
	return at
}

// needed is the rate at which so many bytes are there by a deadline, within what a
// window allows.
func needed(left int64, now, deadline time.Time, most Rate) Rate {
	if deadline.IsZero() || most == off {
		return most
	}
	const spare, least = 1.15, 64 << 10 // for what goes wrong, and bytes a second
	until := deadline.Sub(now).Seconds()
	if until <= 0 {
		return most
	}
	r := Rate(max(least, spare*float64(left)/until))
	if most != unbound {
		r = min(r, most)
	}
	return r
}

// Next is when a group's round is due after a moment, without jitter: for people.
func (c *Config) Next(group string, after time.Time) time.Time {
	for i := range c.Groups {
		if g := c.Groups[i]; g.Name == group {
			g.Jitter = 0
			return c.next(&g, after, "")
		}
	}
	return time.Time{}
}
