package response

import (
	"fmt"
	"net/http"
	"strings"

	"drayage/engine/printable"
)

// IsPage reports whether a good answer is a page for people: a login, or a
// proxy's excuse (G24). What has the blob's size may be the blob.
func IsPage(resp *http.Response, size int64) bool {
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return resp.StatusCode == http.StatusOK && strings.EqualFold(strings.TrimSpace(kind), "text/html") && resp.ContentLength != size
}

// PageTitle is a page's title for a message, or "".
func PageTitle(page []byte) string {
	lower := strings.ToLower(string(page))
	_, rest, ok := strings.Cut(lower, "<title>")
	if !ok {
		return ""
	}
	from := len(lower) - len(rest)
	end := strings.Index(rest, "</title>")
	if end < 0 || from+end > len(page) {
		return ""
	}
	return fmt.Sprintf(", %q", printable.Line(string(page[from:from+end])))
}
