// Package credential finds the user name and password, or the token, that a repository of a
// registry is asked with: where docker login and podman login have stored them, in what a
// user gives, and from credential helpers. It also stores and removes them, as docker login
// and docker logout do.
//
// A source that can't be read stands in nobody's way: it is reported once, and the next one
// is asked. No value of a credential is ever part of an error.
package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"drayage/engine/fault"
)

// Credential is what a registry is asked with. The zero value is nothing.
type Credential struct {
	User, Password string
	Identity       string // a refresh token, which a token server takes in place of a password
	Token          string // a token that the registry itself takes
}

// secrets are the parts of a credential that must not be shown.
func (c Credential) secrets() []string {
	out := []string{c.Password, c.Identity, c.Token}
	if c.Password != "" {
		out = append(out, c.User+":"+c.Password) // as it is sent and stored, in base64
	}
	return out
}

// usable reports whether there is anything to send.
func (c Credential) usable() bool { return c.Password != "" || c.Identity != "" || c.Token != "" }

// Error says that credentials could not be read or stored: a local fault.
type Error struct {
	Where string // the file, environment variable or helper
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("credentials from %s: %v", e.Where, e.Err) }

// FaultKind is its kind: see fault.Of.
func (*Error) FaultKind() fault.Kind { return fault.Local }

// Unwrap is the fault itself.
func (e *Error) Unwrap() error { return e.Err }

// Options are how a Set finds credentials. The zero value is useful.
type Options struct {
	// Deadline is how long a credential helper may take; 0 means a minute.
	Deadline time.Duration
	// Warn, if not nil, gets a line for each source that can't be used, once.
	Warn func(message string)
}

// Set finds credentials. A nil value finds none. Its methods may be called from several
// goroutines.
type Set struct {
	stored  bool
	one     bool // it is meant for one registry, whichever that is
	given   string
	open    func() ([]source, []*Error)
	options Options

	mu      sync.Mutex
	sources []source
	opened  time.Time
	state   string // of the files when they were opened
	warned  map[string]bool
	faults  []*Error // of opening the sources
	helpers map[helperKey]*answer
}

// source is a place where credentials are.
type source struct {
	where string
	file  *file       // or nil
	one   *Credential // for whichever registry asks, or nil
}

// Stored reports whether the credentials were stored some time ago, and may be stale, or
// were given for this very call.
func (s *Set) Stored() bool { return s != nil && s.stored }

// ForOne reports whether there is one credential, for whichever registry asks.
func (s *Set) ForOne() bool { return s != nil && s.one }

// Use sets how the set finds credentials from now on.
func (s *Set) Use(o Options) {
	if s == nil {
		return
	}
	const patient = time.Minute
	if o.Deadline <= 0 || o.Deadline > patient {
		o.Deadline = patient
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.options = o
}

func newSet(open func() ([]source, []*Error)) *Set {
	s := &Set{open: open, warned: make(map[string]bool), helpers: make(map[helperKey]*answer)}
	s.Use(Options{})
	return s
}

// Get finds what to ask a repository with: of the entries for its registry the one for the
// longest part of its path, by containers-auth.json(5). An entry for another path never
// counts, and one without content doesn't. It is the zero Credential when there is none;
// faults then are the reasons that may have been in the way. secret gets what must be kept out
// of messages before it is used. The error is ctx's alone.
func (s *Set) Get(ctx context.Context, registry, repository string, secret func(...string)) (c Credential, faults []*Error, err error) {
	if s == nil {
		return Credential{}, nil, nil
	}
	sources, faults := s.current()
	keys := keysOf(registry, repository)
	for _, src := range sources {
		if src.one != nil {
			secret(src.one.secrets()...)
			return *src.one, nil, nil
		}
		c, fault, err := s.fromFile(ctx, src, keys)
		if err != nil {
			return Credential{}, nil, err
		}
		if fault != nil {
			s.warn(fault)
			faults = append(faults, fault)
		}
		if c.usable() {
			secret(c.secrets()...)
			return c, nil, nil
		}
	}
	if s.given != "" && len(faults) == 0 {
		faults = append(faults, &Error{Where: s.given, Err: fmt.Errorf("no entry for %s", registry)})
	}
	return Credential{}, faults, nil
}

// current are the sources, read again when their files have changed: whoever serves or keeps
// a store warm for months sees new logins.
func (s *Set) current() ([]source, []*Error) {
	const often = 10 * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sources != nil && time.Since(s.opened) < often {
		return s.sources, slices.Clone(s.faults)
	}
	state := stateOf()
	if s.sources == nil || s.stored && state != s.state {
		s.sources, s.faults = s.open()
		if s.sources == nil {
			s.sources = []source{}
		}
		s.state = state
		for _, f := range s.faults {
			s.warnLocked(f)
		}
	}
	s.opened = time.Now()
	return s.sources, slices.Clone(s.faults)
}

func (s *Set) warn(fault *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warnLocked(fault)
}

func (s *Set) warnLocked(fault *Error) {
	text := fault.Error()
	if s.warned[text] {
		return
	}
	s.warned[text] = true
	s.options.Warn(text + "; continuing without")
}

// fromFile finds a credential in a file of Docker's or Podman's kind: by the helper that the
// file names for the registry, or in the file itself.
func (s *Set) fromFile(ctx context.Context, src source, keys []string) (Credential, *Error, error) {
	var fault *Error
	if name, server := src.file.helper(keys); name != "" {
		c, err := s.ask(ctx, name, server)
		switch {
		case ctx.Err() != nil:
			return Credential{}, nil, context.Cause(ctx)
		case err != nil:
			fault = &Error{Where: helperProgram(name), Err: err}
		case c.usable():
			return c, nil, nil
		}
	}
	c, err := src.file.entry(keys)
	if err != nil {
		return Credential{}, &Error{Where: src.where, Err: err}, nil
	}
	return c, fault, nil
}

// Refused says that a registry did not take what a helper gave: helpers hand out tokens that
// run out. It reports whether asking again may give another.
func (s *Set) Refused(registry, repository string) bool {
	if s == nil {
		return false
	}
	const young = 30 * time.Second // what is younger was not stale
	s.mu.Lock()
	defer s.mu.Unlock()
	old := false
	for _, src := range s.sources {
		if src.file == nil {
			continue
		}
		name, server := src.file.helper(keysOf(registry, repository))
		key := helperKey{name, server}
		if a := s.helpers[key]; a != nil && a.over() && time.Since(a.at) > young {
			delete(s.helpers, key)
			old = true
		}
	}
	return old
}

// hub is Docker Hub's name, and hubKeys are its names in credential files, Docker's own
// first.
const hub = "docker.io"

var hubKeys = []string{"index.docker.io", "docker.io", "registry-1.docker.io", "registry.hub.docker.com"}

// hubServer is what Docker calls its hub in files and to helpers.
const hubServer = "https://index.docker.io/v1/"

// keysOf are the keys that may have a repository's credentials, the longest path first:
// registry/a/b, registry/a, registry. Hosts are in lower case.
func keysOf(registry, repository string) []string {
	hosts := []string{strings.ToLower(registry)}
	if registry == hub {
		hosts = hubKeys
	}
	var out []string
	for path := repository; path != ""; {
		for _, h := range hosts {
			out = append(out, h+"/"+path)
		}
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return append(out, hosts...)
}

// normalKey is a key of a credential file as keysOf has them: without the scheme, and without
// the version of the API that old clients wrote behind the host.
func normalKey(key string) string {
	rest := key
	for _, scheme := range []string{"https://", "http://"} {
		if strings.HasPrefix(strings.ToLower(rest), scheme) {
			rest = rest[len(scheme):]
			break
		}
	}
	host, path, _ := strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	if path == "v1" || path == "v2" {
		path = ""
	}
	if path == "" {
		return strings.ToLower(host)
	}
	return strings.ToLower(host) + "/" + path
}

// errNone is wrapped for what was given as credentials and has none.
var errNone = errors.New("no credentials found")

// Login makes credentials of a name and a password, for whichever registry asks.
func Login(user, password string) (*Set, error) {
	if user == "" || password == "" || strings.ContainsAny(user, ":\n\r\x00") {
		return nil, errors.New("a user name (without a colon) and a password are required")
	}
	return oneFor("the command line", Credential{User: user, Password: password}), nil
}

func oneFor(where string, c Credential) *Set {
	s := newSet(func() ([]source, []*Error) { return []source{{where: where, one: &c}}, nil })
	s.one = true
	return s
}
