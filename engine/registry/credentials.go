package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// CredentialsError says that credentials could not be read: a local fault.
type CredentialsError struct {
	Where string
	Err   error
}

func (e *CredentialsError) Error() string {
	return fmt.Sprintf("reading credentials from %s: %v (-A does without)", e.Where, e.Err)
}

// Unwrap is the fault itself.
func (e *CredentialsError) Unwrap() error { return e.Err }

// Credentials find a name and password, or a token, for a registry. A nil
// value finds none.
type Credentials struct {
	stored bool
	one    bool                         // meant for one registry, whichever it is
	load   func() ([]namedStore, error) // called once, when a registry first wants some

	once   sync.Once
	stores []namedStore
	err    error
}

type namedStore struct {
	where string
	credentials.Store
	hubKeys []string // what Docker Hub is called in it
}

// Stored reports whether the credentials are such as were stored some time
// ago and may be stale, and not given for this very call.
func (c *Credentials) Stored() bool { return c != nil && c.stored }

// elsewhere are the credentials for others than the registries that images are
// named by: what was given for one goes to nobody else.
func (c *Credentials) elsewhere() *Credentials {
	if c == nil || c.one {
		return nil
	}
	return c
}

func (c *Credentials) get(ctx context.Context, registry string) (auth.Credential, error) {
	if c == nil {
		return auth.EmptyCredential, nil
	}
	c.once.Do(func() { c.stores, c.err = c.load() })
	if c.err != nil {
		return auth.EmptyCredential, c.err
	}
	for _, s := range c.stores {
		keys := []string{registry}
		if registry == "docker.io" {
			keys = s.hubKeys
		}
		for _, key := range keys {
			cred, err := s.Get(ctx, key)
			if err != nil {
				return auth.EmptyCredential, &CredentialsError{Where: s.where, Err: err}
			}
			if cred != auth.EmptyCredential {
				return cred, nil
			}
		}
	}
	return auth.EmptyCredential, nil
}

// Names of Docker Hub in credential files: Docker's own first (G31).
var hubKeys = []string{"https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"}

// StoredCredentials are those that docker login and podman login stored:
// Docker's config.json with its helpers, then Podman's auth.json.
func StoredCredentials() *Credentials {
	return &Credentials{stored: true, load: func() ([]namedStore, error) {
		var stores []namedStore
		docker, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
		if err != nil {
			return nil, &CredentialsError{Where: "Docker's config.json", Err: err}
		}
		stores = append(stores, namedStore{where: docker.ConfigPath(), Store: docker, hubKeys: hubKeys})
		for _, path := range podmanFiles() {
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
			s, err := credentials.NewStore(path, credentials.StoreOptions{})
			if err != nil {
				return nil, &CredentialsError{Where: path, Err: err}
			}
			stores = append(stores, namedStore{where: path, Store: s, hubKeys: hubKeys})
		}
		return stores, nil
	}}
}

// podmanFiles are the places of auth.json, by containers-auth.json(5).
func podmanFiles() []string {
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return []string{path}
	}
	var out []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		out = append(out, filepath.Join(dir, "containers", "auth.json"))
	}
	if dir, err := os.UserConfigDir(); err == nil {
		out = append(out, filepath.Join(dir, "containers", "auth.json"))
	}
	return out
}

// GivenCredentials reads what a user gave: env:VAR, file:PATH, or the thing
// itself, which is base64 of user:password or user:password plainly. A file
// may also be one like Docker's config.json; then it serves many registries,
// and one is false.
func GivenCredentials(s string) (c *Credentials, one bool, err error) {
	where, text := "the command line", s
	if name, ok := strings.CutPrefix(s, "env:"); ok {
		where = "the environment variable " + name
		if text = os.Getenv(name); text == "" {
			return nil, false, &CredentialsError{Where: where, Err: errors.New("it is not set")}
		}
	} else if path, ok := strings.CutPrefix(s, "file:"); ok {
		where = path
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, false, &CredentialsError{Where: where, Err: err}
		}
		text = strings.TrimSpace(string(raw))
		if strings.HasPrefix(text, "{") {
			store, err := credentials.NewStore(path, credentials.StoreOptions{})
			if err != nil {
				return nil, false, &CredentialsError{Where: where, Err: err}
			}
			return &Credentials{load: func() ([]namedStore, error) {
				return []namedStore{{where: path, Store: store, hubKeys: hubKeys}}, nil
			}}, false, nil
		}
	}
	cred, err := parseCredential(strings.TrimSpace(text))
	if err != nil {
		return nil, false, &CredentialsError{Where: where, Err: err}
	}
	return &Credentials{one: true, load: func() ([]namedStore, error) {
		return []namedStore{{where: where, Store: everywhere{cred}, hubKeys: hubKeys[:1]}}, nil
	}}, true, nil
}

// parseCredential reads user:password, in base64 or plainly: the letters of
// base64 have no colon.
func parseCredential(s string) (auth.Credential, error) {
	if !strings.Contains(s, ":") {
		raw, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return auth.EmptyCredential, errors.New("it is not base64 of user:password")
		}
		s = strings.TrimRight(string(raw), "\r\n")
	}
	user, password, ok := strings.Cut(s, ":")
	if !ok || user == "" || password == "" {
		return auth.EmptyCredential, errors.New("it is not user:password")
	}
	return auth.Credential{Username: user, Password: password}, nil
}

// everywhere has one credential for whatever registry asks.
type everywhere struct{ cred auth.Credential }

func (e everywhere) Get(context.Context, string) (auth.Credential, error) { return e.cred, nil }
func (e everywhere) Put(context.Context, string, auth.Credential) error   { return errors.ErrUnsupported }
func (e everywhere) Delete(context.Context, string) error                 { return errors.ErrUnsupported }
