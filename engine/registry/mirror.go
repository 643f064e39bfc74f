package registry

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"drayage/engine/reference"
	"drayage/engine/registry/hosts"
	"drayage/engine/registry/internal/retrying"
)

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
		if m.Origin || !m.IsFor(ref) {
			continue
		}
		if h := c.mirror(m); !h.isDown() {
			out = append(out, site{host: h, repo: ref.Repository(), ns: ref.Registry(), tags: !m.BlobsAndDigests, mirror: true})
		}
	}
	return append(out, c.home(ref))
}

// home is a reference's repository at its registry.
func (c *Client) home(ref reference.Image) site {
	for i := range c.opts.Mirrors {
		if m := &c.opts.Mirrors[i]; m.Origin && m.IsFor(ref) {
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
func (c *Client) mirror(m *hosts.Mirror) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := m.URL.Scheme + "://" + m.URL.Host + m.Base()
	h := c.hosts[key]
	if h == nil {
		registry := strings.ToLower(m.URL.Host)
		if name, err := hosts.ParseName(registry); err == nil {
			registry = name // Docker Hub has several
		}
		// What was given for one registry goes to no other.
		credentials := c.opts.Credentials != nil && (!c.opts.Credentials.ForOne() || m.Origin && registry == m.Registry)
		h = newHost(m.URL.Host, registry, m.Base(), m.URL.Scheme, credentials)
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
		err := do(retrying.WithTries(ctx, retrying.Tries{Host: s.host.name, Once: true}), s)
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
	c.notices.OnceFor("mirror "+h.name, fmt.Sprintf("mirror %s: %v; trying the next mirror or the registry", h.name, why))
}
