package warm

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// schedule is a cron expression, with days that are longer or shorter by an hour as cron(8) has
// them: a time that a day doesn't have comes right after the gap, and one that it has twice comes
// once. Expressions whose hours are a wildcard go on by the clock.
type schedule struct {
	cron.Schedule
	wild bool
}

// parseCron reads a cron expression. Sundays are 0 and 7, as in every crontab.
func parseCron(text string) (cron.Schedule, error) {
	if strings.HasPrefix(text, "@every") {
		return nil, errors.New("it is an interval")
	}
	zone := ""
	fields := strings.Fields(text)
	if len(fields) > 0 && (strings.HasPrefix(fields[0], "TZ=") || strings.HasPrefix(fields[0], "CRON_TZ=")) {
		zone, fields = fields[0]+" ", fields[1:]
		if len(fields) == 0 { // for which the library ends the program
			return nil, errors.New("it has a time zone and no times")
		}
	}
	text = zone + strings.Join(fields, " ") // the library knows no tabs behind a zone
	const hour, weekday = 1, 4
	wild := true
	if len(fields) == weekday+1 {
		days, err := weekdays(fields[weekday])
		if err != nil {
			return nil, err
		}
		fields[weekday] = days
		wild = strings.HasPrefix(fields[hour], "*")
		text = zone + strings.Join(fields, " ")
	} else if len(fields) == 1 && fields[0] != "@hourly" {
		wild = false // @daily and its like
	}
	s, err := cron.ParseStandard(text)
	if err != nil {
		return nil, err
	}
	return schedule{s, wild}, nil
}

// dayNames are the days as crontabs have them.
var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// weekdays writes a field of days of the week without 7, which the library doesn't know.
func weekdays(field string) (string, error) {
	if !strings.ContainsAny(field, "7") && !strings.Contains(strings.ToLower(field), "-sun") {
		return field, nil
	}
	var days []string
	for _, part := range strings.Split(field, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
				return "", errors.New("a malformed step")
			}
		}
		first, last, isRange := strings.Cut(span, "-")
		if span == "*" || span == "?" {
			days = append(days, part)
			continue
		}
		from, ok := dayNumber(first)
		to, okTo := from, true
		if isRange {
			to, okTo = dayNumber(last)
			if to == 0 && from > 0 {
				to = 7 // to Sunday
			}
		} else if stepped {
			to = 7
		}
		if !ok || !okTo || from > to {
			return "", fmt.Errorf("a malformed range of days %q", part)
		}
		for d := from; d <= to; d += step {
			if day := strconv.Itoa(d % 7); !slices.Contains(days, day) {
				days = append(days, day)
			}
		}
	}
	return strings.Join(days, ","), nil
}

func dayNumber(s string) (int, bool) {
	if i := slices.Index(dayNames, strings.ToLower(s)); i >= 0 {
		return i, true
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n <= 7
}

// Next implements cron.Schedule.
func (s schedule) Next(after time.Time) time.Time {
	if s.wild {
		return s.Schedule.Next(after)
	}
	location := after.Location()
	if spec, ok := s.Schedule.(*cron.SpecSchedule); ok && spec.Location != time.Local {
		location = spec.Location
	}
	// As if the clock had no steps, and then where it has them.
	inner := s.Schedule
	if spec, ok := s.Schedule.(*cron.SpecSchedule); ok {
		plain := *spec
		plain.Location = time.UTC
		inner = &plain
	}
	wall := onClock(after.In(location))
	const most = 1000 // times that may be within an hour that comes twice
	for range most {
		wall = inner.Next(wall)
		if wall.IsZero() {
			return time.Time{}
		}
		if at := moment(wall, location); at.After(after) {
			return at.In(after.Location())
		}
	}
	return time.Time{}
}

// onClock is what a clock shows, as a time without a zone: of UTC.
func onClock(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// moment is when a clock of a place shows a time: the first time that it does, or the end of the
// gap if it is one that it never shows.
func moment(wall time.Time, location *time.Location) time.Time {
	const day = 24 * time.Hour
	guess := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), location)
	_, before := guess.Add(-day).Zone()
	early := wall.Add(-time.Duration(before) * time.Second).In(location) // as if no step had come yet
	if onClock(early).Equal(wall) {
		return early
	}
	if onClock(guess).Equal(wall) {
		return guess
	}
	step, _ := early.ZoneBounds()
	return step
}
