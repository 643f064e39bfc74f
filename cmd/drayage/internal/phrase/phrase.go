// Package phrase formats numbers and times for sentences.
package phrase

import (
	"fmt"
	"time"
)

// Count is a number of things, in the plural unless it is one: "2 images".
func Count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// Are is a number of things with its verb: "1 image is", "2 images are".
func Are(n int, thing string) string {
	if n == 1 {
		return "1 " + thing + " is"
	}
	return fmt.Sprintf("%d %ss are", n, thing)
}

// Ago is how long ago a time was, in whole minutes, hours or days; "unknown" for the zero time.
func Ago(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	const day = 24 * time.Hour
	switch d := time.Since(t); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return Count(int(d/time.Minute), "minute") + " ago"
	case d < day:
		return Count(int(d/time.Hour), "hour") + " ago"
	default:
		return Count(int(d/day), "day") + " ago"
	}
}
