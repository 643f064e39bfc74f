package hosts

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry/internal/origin"
)

// Mirror is another place for what a registry has, which is asked before it.
type Mirror struct {
	Registry string // whose images, as it stands in names: docker.io; "" for all
	URL      *url.URL
	// Whole says that URL has the path below which repositories are, /v2 included;
	// else that is URL and /v2.
	Whole bool
	// BlobsAndDigests limits the mirror to what has a digest: it may be behind with tags.
	BlobsAndDigests bool
	// Origin says that this is the registry itself, perhaps under another address: no
	// other is asked after it, and it is asked for tags and referrers, too.
	Origin bool
	// Probe says that it isn't known whether it speaks TLS.
	Probe  bool
	TLS    *tls.Config // nil means the Client's
	Header http.Header // is added to each request
}

// ParseMirror reads HOST=URL, as --mirror has it. A URL whose path has a /v2 in it says
// where repositories are; else they are at URL/v2, as registries are.
func ParseMirror(s string) (Mirror, error) {
	name, place, ok := strings.Cut(s, "=")
	if !ok {
		return Mirror{}, fmt.Errorf("invalid mirror %q; expected HOST=URL, e.g. docker.io=https://mirror.example", s)
	}
	registry, err := ParseName(name)
	if err != nil {
		return Mirror{}, err
	}
	if !strings.Contains(place, "://") {
		return Mirror{}, fmt.Errorf("mirror %q: the URL must begin with https:// or http://", printable.Line(place))
	}
	u, err := parseURL(place)
	if err != nil {
		return Mirror{}, err
	}
	return Mirror{Registry: registry, URL: u, Whole: strings.Contains(u.Path+"/", "/v2/")}, nil
}

// parseURL reads a mirror's URL; without a scheme it is one of HTTPS.
func parseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	shown := printable.Line(s)
	u, err := url.Parse(s)
	if err == nil && u.User != nil || strings.Contains(s, "@") {
		return nil, errors.New("the URL of a mirror must not contain a user name or password; store them with `drayage login`")
	}
	if right, bare := bracketed(s); bare {
		return nil, fmt.Errorf("%q: IPv6 addresses need brackets: %s", shown, right)
	}
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || origin.IsNowhere(u) {
		return nil, fmt.Errorf("invalid mirror URL %q; example: https://mirror.example", shown)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// bracketed finds an IPv6 address without brackets in a URL, and writes it with them.
func bracketed(s string) (right string, bare bool) {
	_, rest, _ := strings.Cut(s, "://")
	authority, _, _ := strings.Cut(rest, "/")
	if strings.ContainsAny(authority, "[]") || strings.Count(authority, ":") < 2 {
		return "", false
	}
	if i := strings.LastIndexByte(authority, ':'); i > 0 { // the last part may be a port
		_, whole := netip.ParseAddr(authority)
		_, part := netip.ParseAddr(authority[:i])
		port, err := strconv.ParseUint(authority[i+1:], 10, 16)
		if part == nil && err == nil && (whole != nil || port > 255) {
			return "[" + authority[:i] + "]:" + authority[i+1:], true
		}
	}
	if _, err := netip.ParseAddr(authority); err != nil {
		return "", false
	}
	return "[" + authority + "]", true
}

// Base is the path below which repositories are. As containerd has it, /v2 is added only
// where the path doesn't end with it.
func (m Mirror) Base() string {
	if m.Whole || strings.HasSuffix(m.URL.Path, "/v2") {
		return m.URL.Path
	}
	return m.URL.Path + "/v2"
}

// IsFor reports whether a mirror has what a reference's registry has.
func (m *Mirror) IsFor(ref reference.Image) bool {
	return m.Registry == ref.Registry() || m.Registry == "" && m.URL.Host != ref.Host()
}
