package hosts

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"drayage/blobstore/durable"
	"drayage/engine/internal/limits"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry/internal/origin"
	"drayage/engine/textfile"

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

// ReadDir reads what a folder of hosts.toml files says of a registry, as containerd reads it:
// from DIR/HOST_PORT_, DIR/HOST:PORT or DIR/_default, the first that is there. Where that has no
// hosts.toml, or an empty one, its certificates are for the registry itself, as in Docker's
// certs.d. The result are places to ask in that order. base is the TLS configuration that
// theirs add to. An error names the file, and the line where it can.
func ReadDir(dir, registry string, base *tls.Config) ([]Mirror, error) {
	for _, name := range folders(registry) {
		folder := filepath.Join(dir, name)
		if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		path := filepath.Join(folder, "hosts.toml")
		raw, err := readHosts(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if blank(raw) {
			return certificates(folder, registry, base)
		}
		mirrors, err := parseHosts(string(raw), folder, registry, base)
		if err != nil {
			return nil, fmt.Errorf("%s%w", path, err)
		}
		return mirrors, nil
	}
	return nil, nil
}

func readHosts(path string) ([]byte, error) {
	f, err := durable.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := textfile.ReadFrom(f, limits.HostsBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// readPEM reads a file of certificates or of a key.
func readPEM(path string) ([]byte, error) {
	f, err := durable.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := textfile.ReadRaw(f, limits.CertificateBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return raw, nil
}

// folders are the names that the folder of a registry may have. Docker Hub's names are one.
func folders(registry string) []string {
	names := []string{registry}
	if registry == "docker.io" {
		names = append(names, "registry-1.docker.io", "index.docker.io")
	}
	var out []string
	for _, name := range names {
		if i := strings.LastIndexByte(name, ':'); i > 0 {
			out = append(out, name[:i]+"_"+name[i+1:]+"_")
		}
		out = append(out, name)
	}
	return append(out, "_default")
}

// blank reports whether a file says nothing: comments alone.
func blank(raw []byte) bool {
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

// certificates are a folder's *.crt authorities, and its *.cert with their *.key, for the
// registry itself.
func certificates(folder, registry string, base *tls.Config) ([]Mirror, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var e hostEntry
	var cas, pairs []any
	for _, file := range entries {
		switch name := file.Name(); filepath.Ext(name) {
		case ".crt":
			cas = append(cas, name)
		case ".cert":
			key := strings.TrimSuffix(name, ".cert") + ".key"
			if _, err := os.Stat(filepath.Join(folder, key)); err != nil {
				key = name // both may be in one file
			}
			pairs = append(pairs, []any{name, key})
		}
	}
	if len(cas) == 0 && len(pairs) == 0 {
		return nil, nil
	}
	e.CA, e.Client = cas, pairs
	m, err := e.itself(folder, registry, base)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	return []Mirror{m}, nil
}

// itself is the registry itself, with an entry's certificates and headers.
func (e hostEntry) itself(dir, registry string, base *tls.Config) (Mirror, error) {
	ref, err := reference.Parse(registry + "/x")
	if err != nil {
		return Mirror{}, err
	}
	m := Mirror{Registry: registry, URL: &url.URL{Scheme: "https", Host: ref.Host()}, Origin: true, Probe: origin.IsLoopback(registry), Header: e.headers()}
	m.TLS, err = e.tls(dir, base)
	return m, err
}

// parseHosts reads a hosts.toml. Its errors begin with the line, as in ":3: …".
func parseHosts(text, dir, registry string, base *tls.Config) ([]Mirror, error) {
	if line := deepTOML(text); line > 0 {
		return nil, fmt.Errorf(":%d: nested more than %d levels deep", line, limits.HostsDepth)
	}
	var f hostsFile
	meta, err := toml.Decode(text, &f)
	var syntax toml.ParseError
	if errors.As(err, &syntax) {
		return nil, fmt.Errorf(":%d: %s", syntax.Position.Line, printable.Line(syntax.Message))
	}
	if err != nil {
		return nil, fmt.Errorf(": %s", printable.Line(err.Error()))
	}
	at := func(key string, err error) error {
		for n, line := range strings.Split(text, "\n") {
			if strings.Contains(line, key) && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				return fmt.Errorf(":%d: %w", n+1, err)
			}
		}
		return fmt.Errorf(": %w", err)
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
			return nil, at(key[1], err)
		}
		if ok {
			out = append(out, m)
		}
	}
	if f.Server == "" {
		if f.CA == nil && f.Client == nil && !f.SkipVerify && len(f.Header) == 0 {
			return out, nil
		}
		m, err := f.itself(dir, registry, base)
		if err != nil {
			return nil, fmt.Errorf(": %w", err)
		}
		return append(out, m), nil
	}
	m, _, err := f.mirror(f.Server, dir, registry, base)
	if err != nil {
		return nil, at(f.Server, err)
	}
	m.Origin, m.BlobsAndDigests = true, false
	return append(out, m), nil
}

// deepTOML is the line on which tables or arrays lie too deep in each other, or a key has too many
// parts, 0 for none: what decodes them takes the square of their depth. Within strings of several
// lines it may see what isn't there, of which hosts.toml has none.
func deepTOML(text string) int {
	line, depth, dots := 1, 0, 0
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\n':
			line++
			dots, quote = 0, 0
		case quote == '"' && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#':
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case c == '=' || c == ',':
			dots = 0
		case c == '.':
			dots++
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		}
		if depth > limits.HostsDepth || dots >= limits.HostsDepth {
			return line
		}
	}
	return 0
}

// mirror makes one of an entry. ok is false for one that nothing may be pulled from.
func (e hostEntry) mirror(place, dir, registry string, base *tls.Config) (m Mirror, ok bool, err error) {
	u, err := parseURL(place)
	if err != nil {
		return m, false, err
	}
	m = Mirror{Registry: registry, URL: u, Whole: e.OverridePath, Header: e.headers()}
	if len(e.Capabilities) > 0 {
		can := func(what string) bool {
			return slices.ContainsFunc(e.Capabilities, func(c string) bool { return strings.EqualFold(c, what) })
		}
		m.BlobsAndDigests = !can("resolve")
		if !can("pull") {
			return m, false, nil
		}
	}
	m.TLS, err = e.tls(dir, base)
	return m, true, err
}

func (e hostEntry) headers() http.Header {
	out := make(http.Header)
	for k, v := range e.Header {
		for _, text := range texts(v) {
			out.Add(k, text)
		}
	}
	return out
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
			pem, err := readPEM(local(ca))
			if err != nil {
				return nil, err
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s contains no PEM certificate", ca)
			}
		}
		conf.RootCAs = pool
	}
	for _, p := range pairs {
		cert, err := readPEM(local(p[0]))
		if err != nil {
			return nil, err
		}
		key, err := readPEM(local(p[1]))
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p[0], err)
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
