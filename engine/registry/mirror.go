package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"drayage/engine/event"
	"drayage/engine/reference"
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
	// Origin says that this is the registry itself, under another address: no
	// other is asked after it.
	Origin bool
	TLS    *tls.Config // nil means the Client's
	Header http.Header // is added to each request
}

// ParseMirror reads HOST=URL, as --mirror has it. A URL whose path has a /v2 in it says
// where repositories are; else they are at URL/v2, as registries are.
func ParseMirror(s string) (Mirror, error) {
	name, place, ok := strings.Cut(s, "=")
	if !ok {
		return Mirror{}, fmt.Errorf("mirror %q: want HOST=URL, such as docker.io=https://mirror.example", s)
	}
	registry, err := ParseName(name)
	if err != nil {
		return Mirror{}, err
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
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("%q is no URL of a mirror, such as https://mirror.example", s)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// base is the path below which repositories are.
func (m Mirror) base() string {
	if m.Whole {
		return m.URL.Path
	}
	return m.URL.Path + "/v2"
}

// site is a place where a repository is.
type site struct {
	host *host
	repo string
	ns   string // tells a mirror whose images are meant; "" at the registry itself
	tags bool   // tags may be asked for
}

// path is where something of the repository is.
func (s site) path(below string) string {
	path := s.host.base + "/" + s.repo + below
	if s.ns == "" {
		return path
	}
	if strings.Contains(below, "?") {
		return path + "&ns=" + url.QueryEscape(s.ns)
	}
	return path + "?ns=" + url.QueryEscape(s.ns)
}

// mirrorDown is how long a mirror that didn't answer is left alone.
const mirrorDown = time.Minute

// sites lists where a reference's repository is: mirrors that answer, and last the
// registry.
func (c *Client) sites(ref reference.Image) []site {
	var out []site
	for i := range c.opts.Mirrors {
		m := &c.opts.Mirrors[i]
		if m.Registry != ref.Registry() && (m.Registry != "" || m.URL.Host == ref.Host()) {
			continue
		}
		h := c.mirror(m)
		if m.Origin {
			return append(out, site{host: h, repo: ref.Repository(), tags: true})
		}
		if !h.isDown() {
			out = append(out, site{host: h, repo: ref.Repository(), ns: ref.Registry(), tags: !m.BlobsAndDigests})
		}
	}
	return append(out, c.home(ref))
}

// home is a reference's repository at its registry.
func (c *Client) home(ref reference.Image) site {
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
		h = &host{name: m.URL.Host, base: m.base(), scheme: m.URL.Scheme, header: m.Header, anonymously: make(map[string]bool)}
		c.addAuth(h, m.URL.Host, isLoopback(m.URL.Host), c.opts.Credentials.elsewhere())
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
		if errors.Is(err, ErrUnavailable) && !s.host.isDown() {
			s.host.down()
			c.opts.Observer.Observe(event.Warned{Message: fmt.Sprintf("mirror %s: %v; going on without it for a while", s.host.name, err)})
		}
	}
	return nil // there is always a last one
}

// transports are the connections to all hosts: those with a TLS configuration of
// their own apart.
type transports struct {
	base *http.Transport
	own  map[string]*http.Transport // by host
}

func newTransports(base *http.Transport, mirrors []Mirror) *transports {
	t := &transports{base: base, own: make(map[string]*http.Transport)}
	for _, m := range mirrors {
		if m.TLS != nil && t.own[m.URL.Host] == nil {
			own := base.Clone()
			own.TLSClientConfig = m.TLS
			t.own[m.URL.Host] = own
		}
	}
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	if own := t.own[req.URL.Host]; own != nil {
		return own.RoundTrip(req)
	}
	return t.base.RoundTrip(req)
}

// CloseIdleConnections closes those of all.
func (t *transports) CloseIdleConnections() {
	t.base.CloseIdleConnections()
	for _, own := range t.own {
		own.CloseIdleConnections()
	}
}
