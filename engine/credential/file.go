package credential

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"drayage/blobstore/durable"
	"drayage/engine/internal/limits"
	"drayage/engine/textfile"
)

// file is what a file of Docker's or Podman's kind says (docker/cli's config.json,
// containers-auth.json(5)).
type file struct {
	entries map[string][]entry // by normal key
	helpers map[string]string  // by normal key; "" switches the store off for one registry
	store   string             // the helper for all others
	podman  bool               // helpers know Docker Hub as docker.io
}

// entry is one of auths.
type entry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// parseFile reads a credential file. Its errors say nothing of its content.
func parseFile(raw []byte) (*file, error) {
	text, err := textfile.Decode(raw)
	if err != nil {
		return nil, err
	}
	return parseText(text)
}

// parseText is parseFile for one that is decoded.
func parseText(text []byte) (*file, error) {
	top, err := fields(text)
	if err != nil {
		return nil, err
	}
	f := &file{entries: make(map[string][]entry), helpers: make(map[string]string)}
	auths := top
	if !hasAny(top, formKeys...) {
		// The oldest form, .dockercfg, has the registries at its top.
	} else if auths = nil; len(top["auths"]) > 0 {
		if auths, err = fields(top["auths"]); err != nil {
			return nil, fmt.Errorf("auths: %w", err)
		}
	}
	keys := make([]string, 0, len(auths))
	for key := range auths {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		var e entry
		if err := json.Unmarshal(auths[key], &e); err != nil {
			continue // an odd setting of .dockercfg's time; in auths an entry without content
		}
		normal := normalKey(key)
		f.entries[normal] = append(f.entries[normal], e)
	}
	if len(top["credHelpers"]) > 0 {
		helpers, err := fields(top["credHelpers"])
		if err != nil {
			return nil, fmt.Errorf("credHelpers: %w", err)
		}
		for key, raw := range helpers {
			var name string
			if json.Unmarshal(raw, &name) != nil {
				return nil, errors.New("credHelpers is not an object of strings")
			}
			f.helpers[normalKey(key)] = name
		}
	}
	if len(top["credsStore"]) > 0 && json.Unmarshal(top["credsStore"], &f.store) != nil {
		return nil, errors.New("credsStore is not a string")
	}
	return f, nil
}

// fields are those of a JSON object, nil for null. Their values are parts of the text: a file of
// many small things would take many times its size as a whole.
func fields(text []byte) (map[string]json.RawMessage, error) {
	if bytes.Equal(bytes.TrimSpace(text), []byte("null")) {
		return nil, nil
	}
	if err := json.Unmarshal(text, new(struct{})); err != nil {
		return nil, jsonError(text, err)
	}
	out := make(map[string]json.RawMessage)
	n, depth, key, begins := 0, 0, "", -1 // of a value, -1 while a key is read
	for i := 0; i < len(text); i++ {
		c := text[i]
		if depth == 1 && begins >= 0 && (c == ',' || c == '}') {
			out[key] = bytes.TrimSpace(text[begins:i])
			if n++; n > limits.Logins {
				return nil, fmt.Errorf("more than %d entries", limits.Logins)
			}
			begins = -1
		}
		switch c {
		case '"':
			end := i + 1
			for ; text[end] != '"'; end++ { // it is valid JSON
				if text[end] == '\\' {
					end++
				}
			}
			if depth == 1 && begins < 0 {
				if err := json.Unmarshal(text[i:end+1], &key); err != nil {
					return nil, jsonError(text, err)
				}
			}
			i = end
		case ':':
			if depth == 1 && begins < 0 {
				begins = i + 1
			}
		case '{', '[':
			if depth++; depth > limits.JSONDepth {
				return nil, fmt.Errorf("nested more than %d levels deep", limits.JSONDepth)
			}
		case '}', ']':
			depth--
		}
	}
	return out, nil
}

// formKeys are those of which a file has one that is not of the oldest form.
var formKeys = []string{"auths", "credHelpers", "credsStore"}

func hasAny(m map[string]json.RawMessage, keys ...string) bool {
	return slices.ContainsFunc(keys, func(k string) bool { _, ok := m[k]; return ok })
}

// jsonError says where a file stops being JSON, and not what is there.
func jsonError(text []byte, err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line := 1 + bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte("\n"))
		return fmt.Errorf("invalid JSON (line %d)", line)
	}
	return errors.New("not a JSON object")
}

// empty reports whether nobody's credentials are in the file.
func (f *file) empty() bool {
	if f.store != "" || len(f.helpers) > 0 {
		return false
	}
	for _, all := range f.entries {
		for _, e := range all {
			if c, err := e.credential(); err != nil || c.usable() {
				return false
			}
		}
	}
	return true
}

// helper is the helper for a repository, and the name that it has for the registry; "" for
// none.
func (f *file) helper(keys []string) (name, server string) {
	host := keys[len(keys)-1]
	server = host
	if slices.Contains(hubKeys, host) {
		server = hubServer
		if f.podman {
			server = hub
		}
	}
	for _, key := range keys {
		if name, ok := f.helpers[key]; ok {
			if strings.Contains(key, "/") && !slices.Contains(hubKeys, key) {
				server = key
			}
			return name, server // "" means that the file itself has them
		}
	}
	return f.store, server
}

// entry is the credential of the first key that has one with content.
func (f *file) entry(keys []string) (Credential, error) {
	var fault error
	for _, key := range keys {
		for _, e := range f.entries[key] {
			c, err := e.credential()
			if err != nil {
				fault = cmp.Or(fault, fmt.Errorf("the entry for %s: %w", key, err))
				continue
			}
			if c.usable() {
				return c, nil
			}
		}
	}
	return Credential{}, fault
}

// credential decodes an entry. The zero Credential is one without content.
func (e entry) credential() (Credential, error) {
	c := Credential{User: e.Username, Password: e.Password, Identity: e.IdentityToken, Token: e.RegistryToken}
	if e.Auth == "" {
		return c, nil
	}
	user, password, err := decodeAuth(e.Auth)
	if err != nil {
		if c.usable() {
			return c, nil
		}
		return Credential{}, err
	}
	c.User, c.Password = user, password
	return c, nil
}

// decodeAuth decodes user:password in base64. Old clients wrote zero bytes behind the
// password, which are no part of it.
func decodeAuth(s string) (user, password string, err error) {
	raw, err := decodeBase64(s)
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
	if !ok || user == "" || !utf8.ValidString(user+password) || hasControl(user+password) {
		return "", "", errors.New("auth is not user:password in base64")
	}
	return user, password, nil
}

func decodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(strings.TrimSpace(s), "=")
	encoding := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		encoding = base64.RawURLEncoding
	}
	raw, err := encoding.DecodeString(s)
	if err != nil {
		return nil, errors.New("auth is not base64") // the decoder's own words may quote it
	}
	return raw, nil
}

func hasControl(s string) bool { return strings.IndexFunc(s, unicode.IsControl) >= 0 }

// StoredPlace is a place where logins are stored.
type storedPlace struct {
	path   string
	podman bool
}

// places are the files that logins are stored in, in the order in which they are asked:
// Docker's, then Podman's by containers-auth.json(5), then the one of Docker's first years.
// Without a home folder there are none in it.
func places() []storedPlace {
	var out []storedPlace
	if path := dockerConfig(); path != "" {
		out = append(out, storedPlace{path: path})
	}
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		out = append(out, storedPlace{path, true})
	} else {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			out = append(out, storedPlace{filepath.Join(dir, "containers", "auth.json"), true})
		} else if runtime.GOOS == "linux" {
			out = append(out, storedPlace{filepath.Join("/run/containers", strconv.Itoa(os.Getuid()), "auth.json"), true})
		}
		dir := os.Getenv("XDG_CONFIG_HOME")
		if home, err := os.UserHomeDir(); dir == "" && err == nil {
			dir = filepath.Join(home, ".config")
		}
		if dir != "" {
			out = append(out, storedPlace{filepath.Join(dir, "containers", "auth.json"), true})
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		out = append(out, storedPlace{path: filepath.Join(home, ".dockercfg")})
	}
	return out
}

// dockerConfig is the path of Docker's config.json, "" when there is no place for it.
func dockerConfig() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json")
	}
	home, err := os.UserHomeDir()
	if err != nil || home == "" {
		return ""
	}
	return filepath.Join(home, ".docker", "config.json")
}

// environment is the variable that holds credentials as config.json has them: GitLab's
// runners have set it for years, and Docker's own CLI reads it since 2025.
const environment = "DOCKER_AUTH_CONFIG"

// stateOf tells one state of the stored logins from another.
func stateOf() string {
	var b strings.Builder
	for _, p := range places() {
		if info, err := os.Stat(p.path); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", p.path, info.ModTime().UnixNano(), info.Size())
		}
	}
	return b.String()
}

// Stored finds the credentials that docker login, podman login and drayage login stored:
// those in $DOCKER_AUTH_CONFIG, in Docker's config.json and its helpers, in Podman's auth.json.
func Stored() *Set {
	s := newSet(openStored)
	s.stored = true
	return s
}

func openStored() (sources []source, faults []*Error) {
	add := func(where string, podman bool, raw []byte) {
		f, err := parseFile(raw)
		if err != nil {
			faults = append(faults, &Error{Where: where, Err: err})
			return
		}
		f.podman = podman
		sources = append(sources, source{where: where, file: f})
	}
	if text := os.Getenv(environment); strings.TrimSpace(text) != "" {
		add("the environment variable "+environment, false, []byte(text))
	}
	for _, p := range places() {
		raw, err := readPlace(p.path)
		switch {
		case err == nil && len(bytes.TrimSpace(raw)) == 0: // as if absent; Podman makes such
		case err == nil:
			add(p.path, p.podman, raw)
		case absent(err):
		default:
			faults = append(faults, &Error{Where: p.path, Err: bare(err)})
		}
	}
	return sources, faults
}

// absent reports whether an error of reading a stored login means that there is none. A folder
// in the file's place is what docker run -v makes of a file that isn't there, and a home of
// /dev/null is what service users have.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR)
}

// bare is an error of package os without the path, which stands before it.
func bare(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// readPlace reads a file that has its place.
func readPlace(path string) ([]byte, error) { return readFile(durable.OpenRegular(path)) }

// readFile reads a file that was just opened.
func readFile(f *os.File, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	path := f.Name()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	case info.Size() > limits.LoginBytes:
		return nil, &fs.PathError{Op: "read", Path: path, Err: textfile.ErrTooLarge}
	}
	var b bytes.Buffer
	b.Grow(int(info.Size()) + bytes.MinRead)
	_, err = b.ReadFrom(&limited{f, limits.LoginBytes})
	return b.Bytes(), err
}
