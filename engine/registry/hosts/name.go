// Package hosts says which hosts are asked for what a registry has: it reads registries' names,
// mirrors as flags have them, and folders of hosts.toml as containerd has them. Nothing in it
// connects to anything. Begin at ParseMirror for one mirror, and at ReadDir for a folder.
package hosts

import (
	"fmt"
	"slices"
	"strings"

	"drayage/engine/reference"
)

// ParseName reads what people type for a registry: its name, or a URL of it.
func ParseName(s string) (string, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "/"), "/v2"), "/v1")
	if slices.Contains([]string{"docker.io", "index.docker.io", "registry-1.docker.io"}, name) {
		return "docker.io", nil
	}
	ref, err := reference.Parse(name + "/x")
	if err != nil || ref.Registry() != name {
		return "", fmt.Errorf("invalid registry name %q; examples: ghcr.io, registry.example:5000", s)
	}
	return name, nil
}
