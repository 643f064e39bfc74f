package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// hostsFile is a hosts.toml as containerd reads it (docs/hosts.md of containerd):
// where to find what a registry has.
type hostsFile struct {
	Server string               `toml:"server"`
	Host   map[string]hostEntry `toml:"host"`
	hostEntry
}

type hostEntry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a file or several
	Client       any            `toml:"client"` // a file, a pair, or several
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // a value or several
	OverridePath bool           `toml:"override_path"`
}

// HostsDir reads what a folder of hosts.toml files says of a registry, from
// DIR/<registry>/hosts.toml or else DIR/_default/hosts.toml: places to ask in
// that order. base is the TLS configuration that theirs add to.
func HostsDir(dir, registry string, base *tls.Config) ([]Mirror, error) {
	for _, name := range []string{registry, strings.ReplaceAll(registry, ":", "_") + "_", "_default"} {
		path := filepath.Join(dir, name, "hosts.toml")
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		mirrors, err := parseHosts(string(raw), filepath.Dir(path), registry, base)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return mirrors, nil
	}
	return nil, nil
}

func parseHosts(text, dir, registry string, base *tls.Config) ([]Mirror, error) {
	var f hostsFile
	meta, err := toml.Decode(text, &f)
	if err != nil {
		return nil, err
	}
	var out []Mirror
	seen := make(map[string]bool)
	for _, key := range meta.Keys() { // in the file's order
		if len(key) < 2 || key[0] != "host" || seen[key[1]] {
			continue
		}
		seen[key[1]] = true
		m, ok, err := f.Host[key[1]].mirror(key[1], dir, registry, base)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, m)
		}
	}
	if f.Server == "" {
		return out, nil
	}
	m, _, err := f.mirror(f.Server, dir, registry, base)
	m.Origin, m.BlobsAndDigests = true, false
	return append(out, m), err
}

// mirror makes one of an entry. ok is false for one that nothing may be pulled from.
func (e hostEntry) mirror(place, dir, registry string, base *tls.Config) (m Mirror, ok bool, err error) {
	u, err := ParseMirrorURL(place)
	if err != nil {
		return m, false, err
	}
	m = Mirror{Registry: registry, URL: u, Whole: e.OverridePath, Header: make(http.Header)}
	if len(e.Capabilities) > 0 {
		m.BlobsAndDigests = !slices.Contains(e.Capabilities, "resolve")
		if !slices.Contains(e.Capabilities, "pull") {
			return m, false, nil
		}
	}
	for k, v := range e.Header {
		for _, text := range texts(v) {
			m.Header.Add(k, text)
		}
	}
	m.TLS, err = e.tls(dir, base)
	return m, true, err
}

// texts are the strings of a value that may be one or a list.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// tls is the entry's own configuration, nil when it has none. Files are relative
// to the folder of hosts.toml.
func (e hostEntry) tls(dir string, base *tls.Config) (*tls.Config, error) {
	cas, pairs := texts(e.CA), e.pairs()
	if !e.SkipVerify && len(cas) == 0 && len(pairs) == 0 {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		conf = base.Clone()
	}
	conf.InsecureSkipVerify = conf.InsecureSkipVerify || e.SkipVerify // asked for by its name
	local := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	if len(cas) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, ca := range cas {
			pem, err := os.ReadFile(local(ca))
			if err != nil {
				return nil, err
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s has no certificate in PEM form", ca)
			}
		}
		conf.RootCAs = pool
	}
	for _, p := range pairs {
		pair, err := tls.LoadX509KeyPair(local(p[0]), local(p[1]))
		if err != nil {
			return nil, err
		}
		conf.Certificates = append(conf.Certificates, pair)
	}
	return conf, nil
}

// pairs are client certificates with their keys: "both.pem", ["a.pem"], [["a.cert",
// "a.key"]].
func (e hostEntry) pairs() [][2]string {
	var out [][2]string
	for _, one := range texts(e.Client) {
		out = append(out, [2]string{one, one})
	}
	if list, ok := e.Client.([]any); ok {
		for _, v := range list {
			switch pair := texts(v); {
			case len(pair) == 2:
				out = append(out, [2]string{pair[0], pair[1]})
			case len(pair) == 1 && pair[0] != v:
				out = append(out, [2]string{pair[0], pair[0]})
			}
		}
	}
	return out
}
