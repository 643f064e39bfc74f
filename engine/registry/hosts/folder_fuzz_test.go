package hosts

import (
	"strings"
	"testing"

	"drayage/engine/registry/internal/origin"
)

// FuzzHostsTOML: whatever a hosts.toml says, mirrors are URLs that can be asked, and errors are
// one line.
func FuzzHostsTOML(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/dev") || strings.Contains(text, "/proc") || len(text) > 10_000 {
			return // files that certificates may be read from, for ever
		}
		mirrors, err := parseHosts(text, t.TempDir(), "registry.example", nil)
		if err != nil && (strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 5000) {
			t.Errorf("%q: %q", text, err)
		}
		for _, m := range mirrors {
			if m.URL.Scheme != "http" && m.URL.Scheme != "https" || m.URL.Hostname() == "" || origin.IsNowhere(m.URL) || m.URL.User != nil {
				t.Errorf("%q names %v", text, m.URL)
			}
		}
	})
}
