package wire

import (
	"net/url"
	"strconv"
	"time"
)

// Expiry is when a signed URL stops working, by the parameters that storage
// services give it; the zero time when there are none (G5).
func Expiry(u *url.URL) time.Time {
	q := u.Query()
	for _, vendor := range []string{"X-Amz-", "X-Goog-"} {
		at, err := time.Parse("20060102T150405Z", q.Get(vendor+"Date"))
		life, errLife := strconv.Atoi(q.Get(vendor + "Expires"))
		if err == nil && errLife == nil && life >= 0 && life < 1e9 {
			return at.Add(time.Duration(life) * time.Second)
		}
	}
	if secs, err := strconv.ParseInt(q.Get("Expires"), 10, 64); err == nil && secs > 0 && secs < 1<<40 {
		return time.Unix(secs, 0)
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04Z", "2006-01-02"} {
		if at, err := time.Parse(form, q.Get("se")); err == nil {
			return at
		}
	}
	return time.Time{}
}
