package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"drayage/engine/event"
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
	u, err := ParseMirrorURL(place)
	if err != nil {
		return Mirror{}, err
	}
	return Mirror{Registry: registry, URL: u, Whole: strings.Contains(u.Path+"/", "/v2/")}, nil
}

// ParseMirrorURL reads a mirror's URL; without a scheme it is one of HTTPS.
func ParseMirrorURL(s string) (*url.URL, error) {
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

// base is the path below which repositories are. As containerd has it, /v2 is added only
// where the path doesn't end with it.
func (m Mirror) base() string {
	if m.Whole || strings.HasSuffix(m.URL.Path, "/v2") {
		return m.URL.Path
	}
	return m.URL.Path + "/v2"
}

// site is a place where a repository is.
type site struct {
	host   *host
	repo   string
	ns     string // tells a mirror whose images are meant; "" where that is plain
	tags   bool   // tags may be asked for
	mirror bool   // it is not the registry itself
}

// path is where something of the repository is, with a hint for a mirror whose it is.
func (s site) path(below, ns string) string {
	path := s.host.base + "/" + s.repo + below
	if ns == "" {
		return path
	}
	if strings.Contains(below, "?") {
		return path + "&ns=" + url.QueryEscape(ns)
	}
	return path + "?ns=" + url.QueryEscape(ns)
}

// mirrorDown is how long a mirror that didn't answer is left alone.
const mirrorDown = time.Minute

// sites lists where a reference's repository is: mirrors that answer, and last the
// registry.
func (c *Client) sites(ref reference.Image) []site {
	var out []site
	for i := range c.opts.Mirrors {
		m := &c.opts.Mirrors[i]
		if m.Origin || !m.isFor(ref) {
			continue
		}
		if h := c.mirror(m); !h.isDown() {
			out = append(out, site{host: h, repo: ref.Repository(), ns: ref.Registry(), tags: !m.BlobsAndDigests, mirror: true})
		}
	}
	return append(out, c.home(ref))
}

// isFor reports whether a mirror has what a reference's registry has.
func (m *Mirror) isFor(ref reference.Image) bool {
	return m.Registry == ref.Registry() || m.Registry == "" && m.URL.Host != ref.Host()
}

// home is a reference's repository at its registry.
func (c *Client) home(ref reference.Image) site {
	for i := range c.opts.Mirrors {
		if m := &c.opts.Mirrors[i]; m.Origin && m.isFor(ref) {
			at := site{host: c.mirror(m), repo: ref.Repository(), tags: true}
			if !strings.EqualFold(m.URL.Host, ref.Host()) && !strings.EqualFold(m.URL.Host, ref.Registry()) {
				at.ns = ref.Registry()
			}
			return at
		}
	}
	return site{host: c.host(ref), repo: ref.Repository(), tags: true}
}

// Host is the host that is asked first for what a reference names.
func (c *Client) Host(ref reference.Image) string { return c.sites(ref)[0].host.name }

// mirror is the host of a mirror.
func (c *Client) mirror(m *Mirror) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := m.URL.Scheme + "://" + m.URL.Host + m.base()
	h := c.hosts[key]
	if h == nil {
		registry := strings.ToLower(m.URL.Host)
		if name, err := ParseName(registry); err == nil {
			registry = name // Docker Hub has several
		}
		// What was given for one registry goes to no other.
		credentials := c.opts.Credentials != nil && (!c.opts.Credentials.ForOne() || m.Origin && registry == m.Registry)
		h = newHost(m.URL.Host, registry, m.base(), m.URL.Scheme, credentials)
		h.header = m.Header
		if m.Probe {
			h.scheme = ""
		}
		c.hosts[key] = h
	}
	return h
}

// down marks a host that didn't answer, and isDown says that it was marked lately.
func (h *host) down() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.downUntil = time.Now().Add(mirrorDown)
}

func (h *host) isDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.downUntil)
}

// anywhere calls do for each site in turn until it succeeds. A mirror has one try:
// there are others.
func (c *Client) anywhere(ctx context.Context, ref reference.Image, tag bool, do func(ctx context.Context, s site) error) error {
	sites := c.sites(ref)
	for i, s := range sites {
		if i == len(sites)-1 {
			return do(ctx, s)
		}
		if tag && !s.tags {
			continue
		}
		err := do(withTries(ctx, tries{host: s.host.name, once: true}), s)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, ErrUnavailable) {
			s.host.down()
		}
		c.mirrorFailed(s.host, err)
	}
	return nil // there is always a last one
}

// mirrorFailed tells, once a mirror, that it did not give what it was asked for.
func (c *Client) mirrorFailed(h *host, why error) {
	c.mu.Lock()
	known := c.told["mirror "+h.name]
	c.told["mirror "+h.name] = true
	c.mu.Unlock()
	if !known {
		c.opts.Observer.Observe(event.Warned{Message: fmt.Sprintf("mirror %s: %v; trying the next mirror or the registry", h.name, why)})
	}
}
