package phrase

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCountsHaveTheirNumber(t *testing.T) {
	for n, want := range map[int][2]string{0: {"0 images", "0 images are"}, 1: {"1 image", "1 image is"}, 2: {"2 images", "2 images are"}} {
		if count, are := Count(n, "image"), Are(n, "image"); count != want[0] || are != want[1] {
			t.Errorf("%d: %q, %q", n, count, are)
		}
	}
}

func TestAgoIsInWholeUnits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for d, want := range map[time.Duration]string{
			0: "just now", time.Minute - 1: "just now", time.Minute: "1 minute ago", time.Hour - 1: "59 minutes ago",
			time.Hour: "1 hour ago", 24*time.Hour - 1: "23 hours ago", 24 * time.Hour: "1 day ago", 49 * time.Hour: "2 days ago",
		} {
			if got := Ago(time.Now().Add(-d)); got != want {
				t.Errorf("%s: %q, not %q", d, got, want)
			}
		}
		if got := Ago(time.Time{}); got != "unknown" {
			t.Errorf("the zero time: %q", got)
		}
	})
}
