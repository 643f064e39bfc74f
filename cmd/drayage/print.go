package main

import (
	"fmt"
	"time"

	"drayage/cmd/drayage/internal/process"
)

// count is a number of things, with the plural where there isn't one.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// are is a number of things with its verb.
func are(n int, thing string) string {
	if n == 1 {
		return "1 " + thing + " is"
	}
	return fmt.Sprintf("%d %ss are", n, thing)
}

func printJSON(s process.Streams, v any) error { return s.Out.JSON(v) }

// ago is a moment for people.
func ago(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	const day = 24 * time.Hour
	switch d := time.Since(t); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return count(int(d/time.Minute), "minute") + " ago"
	case d < day:
		return count(int(d/time.Hour), "hour") + " ago"
	default:
		return count(int(d/day), "day") + " ago"
	}
}
