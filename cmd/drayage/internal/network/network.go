// Package network has the flags for how registries are reached, and makes clients by them:
// credentials, TLS, mirrors, rates and timeouts.
package network

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/build"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine"
	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"
)

// Flags are how registries are reached.
type Flags struct {
	Auth       string
	noAuth     bool
	insecure   bool
	skipVerify bool
	caCert     string
	cert, key  string

	mirrors  []string
	hostsDir string
	allowed  []string

	Limit     units.ByteRate
	Stall     time.Duration
	Connect   time.Duration
	FirstByte time.Duration
}

// Credentials are those of -a, or those that docker login and podman login stored; nil for none.
func (n *Flags) Credentials(refs []reference.Image) (*credential.Set, error) {
	switch {
	case n.noAuth && n.Auth != "":
		return nil, status.Misuse(errors.New("-a and -A cannot be combined"))
	case n.noAuth:
		return nil, nil
	case n.Auth == "":
		return credential.Stored(), nil
	}
	c, err := credential.Given(n.Auth)
	if err != nil {
		return nil, status.Misuse(err)
	}
	for _, ref := range refs {
		if c.ForOne() && ref.Registry() != refs[0].Registry() {
			return nil, status.Misuse(fmt.Errorf("-a has credentials for one registry, but the images are from %s and %s; "+
				"-a file:PATH takes a file like Docker's config.json, with one for each", refs[0].Registry(), ref.Registry()))
		}
	}
	return c, nil
}

// Client is NewClient for a command whose events all go to its display.
func (n *Flags) Client(c *credential.Set, refs []reference.Image, perHost int, policy engine.Retry, d *display.Display) (*registry.Client, error) {
	return n.NewClient(c, refs, policy, d, d, func(o *registry.Options) { o.PerHost = perHost })
}

// NewClient makes a client whose events go to an observer, which has the display among
// others. change has the last word on its options.
func (n *Flags) NewClient(c *credential.Set, refs []reference.Image, policy engine.Retry, o event.Observer, d *display.Display, change func(*registry.Options)) (*registry.Client, error) {
	if err := registry.CheckProxies(); err != nil {
		return nil, status.Misuse(err)
	}
	conf, err := n.tls()
	if err != nil {
		return nil, err
	}
	mirrors, err := n.places(refs, conf)
	if err != nil {
		return nil, err
	}
	allowed, err := n.addresses()
	if err != nil {
		return nil, err
	}
	opts := registry.Options{
		Allowed: allowed, Credentials: c, PlainHTTP: n.insecure, TLS: conf,
		UserAgent: "drayage/" + build.Version(), Observer: o, TraceHeaders: d.Debug > 1,
		Mirrors: mirrors, Retry: policy, Limit: n.Limit.Limiter(), Stall: n.Stall, Connect: n.Connect, FirstByte: n.FirstByte,
	}
	change(&opts)
	return registry.New(opts), nil
}

// addresses are those of --allow-address.
func (n *Flags) addresses() ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range n.allowed {
		p, err := registry.ParseAllowed(text)
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("--allow-address: %w", err))
		}
		out = append(out, p)
	}
	return out, nil
}

// places are the mirrors that are asked before registries: those of --mirror, then
// those of hosts.toml files.
func (n *Flags) places(refs []reference.Image, conf *tls.Config) ([]hosts.Mirror, error) {
	var out []hosts.Mirror
	for _, text := range n.mirrors {
		m, err := hosts.ParseMirror(text)
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("--mirror: %w", err))
		}
		out = append(out, m)
	}
	if n.hostsDir == "" {
		return out, nil
	}
	if _, err := os.Stat(n.hostsDir); err != nil {
		return nil, fmt.Errorf("--hosts-dir: %w", err)
	}
	seen := make(map[string]bool)
	for _, ref := range refs {
		if name := ref.Registry(); !seen[name] {
			seen[name] = true
			more, err := hosts.ReadDir(n.hostsDir, name, conf)
			if err != nil {
				return nil, status.Misuse(fmt.Errorf("--hosts-dir: %w", err))
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

func (n *Flags) tls() (*tls.Config, error) {
	if (n.cert == "") != (n.key == "") {
		return nil, status.Misuse(errors.New("--cert and --key must be used together"))
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: n.skipVerify} // asked for by its name
	if n.caCert != "" {
		pem, err := ReadPEM(durable.OpenNamed(n.caCert))
		if images.BadText(err) {
			return nil, status.Misuse(fmt.Errorf("--ca-cert: %w", err))
		}
		if err != nil {
			return nil, fmt.Errorf("--ca-cert: %w", err)
		}
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, status.Misuse(fmt.Errorf("--ca-cert: %s contains no PEM certificate", n.caCert))
		}
	}
	if n.cert != "" {
		cert, err := ReadPEM(durable.OpenNamed(n.cert))
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("--cert: %w", err))
		}
		key, err := ReadPEM(durable.OpenNamed(n.key))
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("--key: %w", err))
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("--cert and --key: %w", err))
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
