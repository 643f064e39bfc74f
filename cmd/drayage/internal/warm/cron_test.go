package warm

import (
	"testing"
	"time"
	_ "time/tzdata" // the places below are there on every machine
)

// TestWorldSchedules holds schedules to what crontabs mean (W1, W2).
func TestWorldSchedules(t *testing.T) {
	const form = "2006-01-02 15:04 MST"
	for _, c := range []struct{ expr, zone, after, want string }{
		// W1: 7 is Sunday. 2026-06-03 is a Wednesday.
		{"0 3 * * 7", "UTC", "2026-06-03 00:00", "2026-06-07 03:00 UTC"},
		{"0 3 * * 5-7", "UTC", "2026-06-03 00:00", "2026-06-05 03:00 UTC"},
		{"0 3 * * 5-7", "UTC", "2026-06-06 12:00", "2026-06-07 03:00 UTC"},
		{"0 3 * * 5-7", "UTC", "2026-06-07 12:00", "2026-06-12 03:00 UTC"},
		{"0 3 * * 0-7", "UTC", "2026-06-03 04:00", "2026-06-04 03:00 UTC"},
		{"0 3 * * 1,7", "UTC", "2026-06-03 00:00", "2026-06-07 03:00 UTC"},
		{"0 3 * * 5-7/2", "UTC", "2026-06-05 12:00", "2026-06-07 03:00 UTC"},
		{"0 3 * * fri-sun", "UTC", "2026-06-06 12:00", "2026-06-07 03:00 UTC"},
		{"0 3 * * 7-7", "UTC", "2026-06-03 00:00", "2026-06-07 03:00 UTC"},
		{"CRON_TZ=UTC 0 3 * * 7", "Europe/Berlin", "2026-06-03 00:00", "2026-06-07 05:00 CEST"},
		// W2: 2:30 isn't there on 2026-03-29 in Berlin, and comes right after the gap, once.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 03:00 CEST"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-29 03:00", "2026-03-30 02:30 CEST"},
		{"0 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 03:00 CEST"},
		{"0 3 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 03:00 CEST"},
		// Midnight isn't there on 2026-09-06 in Santiago, and on 2026-04-24 in Cairo.
		{"0 0 * * *", "America/Santiago", "2026-09-05 12:00", "2026-09-06 01:00 -03"},
		{"0 0 * * *", "America/Santiago", "2026-09-06 01:00", "2026-09-07 00:00 -03"},
		{"@daily", "America/Santiago", "2026-09-05 12:00", "2026-09-06 01:00 -03"},
		{"0 0 * * *", "Africa/Cairo", "2026-04-23 12:00", "2026-04-24 01:00 EEST"},
		// 1:30 comes twice on 2026-11-01 in New York, and counts once.
		{"30 1 * * *", "America/New_York", "2026-10-31 12:00", "2026-11-01 01:30 EDT"},
		{"30 1 * * *", "America/New_York", "2026-11-01 01:30", "2026-11-02 01:30 EST"},
		// Wildcards go on by the clock.
		{"*/30 * * * *", "Europe/Berlin", "2026-03-29 01:45", "2026-03-29 03:00 CEST"},
		{"15 * * * *", "America/New_York", "2026-11-01 01:20", "2026-11-01 01:15 EST"},
	} {
		location, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		after, err := time.ParseInLocation("2006-01-02 15:04", c.after, location)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parseCron(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if got := s.Next(after).Format(form); got != c.want {
			t.Errorf("%s in %s after %s is %s, want %s", c.expr, c.zone, c.after, got, c.want)
		}
	}
	for _, bad := range []string{"0 3 * * 8", "0 3 * * 7-5", "0 3 * * 7/x", "0 3 * *", "@every 1h", "0 3 * * 6-77"} {
		if _, err := parseCron(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A window's edge in a gap is at its end.
func TestWindowsAtGaps(t *testing.T) {
	location, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 3, 29, 12, 0, 0, 0, location)
	if got := TimeOfDay(2*60 + 30 + 1).on(day); !got.Equal(time.Date(2026, 3, 29, 3, 0, 0, 0, location)) {
		t.Errorf("2:30 is at %s", got)
	}
}
