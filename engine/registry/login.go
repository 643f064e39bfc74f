package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"drayage/engine/reference"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// ParseName reads what people type for a registry: its name, or a URL of it.
func ParseName(s string) (string, error) {
	for _, key := range hubKeys {
		if s == key {
			return "docker.io", nil
		}
	}
	name := strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	name = strings.TrimSuffix(strings.TrimSuffix(name, "/"), "/v2")
	ref, err := reference.Parse(name + "/x")
	if err != nil || ref.Registry() != name {
		return "", fmt.Errorf("%q is no name of a registry, such as ghcr.io or registry.example:5000", s)
	}
	return name, nil
}

// NewLogin makes credentials of a name and a password for whichever registry
// wants some.
func NewLogin(user, password string) (*Credentials, error) {
	if user == "" || password == "" || strings.Contains(user, ":") {
		return nil, errors.New("a user name without a colon and a password are needed")
	}
	cred := auth.Credential{Username: user, Password: password}
	return &Credentials{load: func() ([]namedStore, error) {
		return []namedStore{{where: "the command line", Store: everywhere{cred}, hubKeys: hubKeys[:1]}}, nil
	}}, nil
}

// Ping asks a registry whether it lets us in, by the base request of the
// distribution spec ("Determining Support").
func (c *Client) Ping(ctx context.Context, registry string) error {
	ref, err := reference.Parse(registry + "/x")
	if err != nil {
		return err
	}
	h := c.host(ref)
	client := h.stored
	if c.opts.Credentials == nil {
		client = h.anonymous
	}
	resp, err := c.over(ctx, h, client, http.MethodGet, "/v2/", nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return responseError(resp, h.name, quotaUntil(resp))
	}
	return resp.Body.Close()
}

// key is what a registry is called in Docker's config.json.
func key(registry string) string {
	if registry == "docker.io" {
		return hubKeys[0]
	}
	return registry
}

// Store stores credentials for a registry where docker login does, and says
// where, and whether that is a file that anybody can read who can read the user's files.
func Store(ctx context.Context, registry string, c *Credentials) (where string, plain bool, err error) {
	cred, err := c.get(ctx, registry)
	if err != nil {
		return "", false, err
	}
	docker, err := credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: true, DetectDefaultNativeStore: true})
	if err != nil {
		return "", false, &CredentialsError{Where: "Docker's config.json", Err: err}
	}
	if err := docker.Put(ctx, key(registry), cred); err != nil {
		return "", false, &CredentialsError{Where: docker.ConfigPath(), Err: err}
	}
	// A file has it only when no helper took it.
	file, err := credentials.NewFileStore(docker.ConfigPath())
	if err != nil {
		return docker.ConfigPath(), false, nil // it is stored; only how isn't known
	}
	kept, err := file.Get(ctx, key(registry))
	return docker.ConfigPath(), err == nil && kept.Password != "", nil
}

// Remove removes a registry's credentials from where Store puts them.
func Remove(ctx context.Context, registry string) (where string, err error) {
	docker, err := credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: true, DetectDefaultNativeStore: true})
	if err != nil {
		return "", &CredentialsError{Where: "Docker's config.json", Err: err}
	}
	keys := []string{registry}
	if registry == "docker.io" {
		keys = hubKeys
	}
	for _, k := range keys {
		if err := docker.Delete(ctx, k); err != nil {
			return "", &CredentialsError{Where: docker.ConfigPath(), Err: err}
		}
	}
	return docker.ConfigPath(), nil
}
