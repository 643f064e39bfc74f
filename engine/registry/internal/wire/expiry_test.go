package wire

import (
	"net/url"
	"testing"
	"time"
)

func TestExpiryIsReadFromSignedURLs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for query, want := range map[string]time.Time{
		"X-Amz-Date=20260102T030405Z&X-Amz-Expires=300":   at.Add(5 * time.Minute),
		"X-Goog-Date=20260102T030405Z&X-Goog-Expires=60":  at.Add(time.Minute),
		"Expires=1767323045&Signature=x&Key-Pair-Id=y":    at,
		"se=2026-01-02T03%3A04%3A05Z&sig=x":               at,
		"":                                                {},
		"X-Amz-Date=rubbish&X-Amz-Expires=300":            {},
		"Expires=-5":                                      {},
		"X-Amz-Date=20260102T030405Z&X-Amz-Expires=1e309": {},
	} {
		if got := Expiry(&url.URL{RawQuery: query}); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
}
