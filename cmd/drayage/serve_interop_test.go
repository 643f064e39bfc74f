//go:build interop

package main_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"drayage/engine/registry/registrytest"

	"golang.org/x/crypto/bcrypt"
)

// served is a store with images, served.
type served struct {
	drayage, dir string
	host         string
	upstream     *registrytest.Server
	image        registrytest.Image
}

// serveStore pulls images into a store, and serves it with some flags.
func serveStore(t *testing.T, flags ...string) *served {
	t.Helper()
	s := &served{drayage: build(t), dir: t.TempDir(), host: freeAddress(t), upstream: registrytest.New()}
	t.Cleanup(s.upstream.Close)
	here := "linux/" + runtime.GOARCH
	s.image = registrytest.Build(here, registrytest.Layer(1, 200_000), registrytest.Layer(2, 3000))
	direct := s.upstream.Push("library/app", "1", s.image)
	s.upstream.Push("library/app", "2", registrytest.Build(here, registrytest.Layer(3, 3000)))
	s.upstream.Push("library/app", "", registrytest.Artifact("application/signature", &s.image.Descriptor, []byte("signature")))
	s.upstream.HaveReferrers()
	// As if they were Docker Hub's.
	command(t, s.drayage, "pull", "-q", "--no-sync", "--store", s.store(), "--mirror", "docker.io=http://"+s.upstream.Host(), "app:1", "app:2")
	command(t, s.drayage, "pull", "-q", "--no-sync", "--referrers", "--store", s.store(), direct)
	service(t, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.host+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			// With HTTPS it is enough that somebody answers.
			return strings.Contains(err.Error(), "malformed HTTP")
		}
		resp.Body.Close()
		return true
	}, s.drayage, append([]string{"serve", "--store", s.store(), "--listen", s.host}, flags...)...)
	return s
}

func (s *served) store() string { return filepath.Join(s.dir, "store") }

// The distribution spec's own tests, as far as they are for who can only be read.
func TestInteropConformance(t *testing.T) {
	suites, _ := filepath.Glob(filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "conformance-*"))
	if len(suites) != 1 {
		t.Fatal("the conformance tests are not installed: make interop installs what is needed")
	}
	s := serveStore(t)
	var blobs []string
	for d := range s.image.Blobs {
		blobs = append(blobs, d.String())
	}
	cmd := exec.CommandContext(t.Context(), suites[0])
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+s.host, "OCI_TLS=disabled", "OCI_REPO1=library/app", "OCI_API_PUSH=false", "OCI_API_BLOBS_DELETE=false", "OCI_API_MANIFESTS_DELETE=false", "OCI_API_TAGS_DELETE=false",
		"OCI_API_BLOBS_DIGEST_HEADER=true", // for manifests the suite looks at what it has pushed, and it has pushed none
		"OCI_RO_DATA_TAGS=1 2", "OCI_RO_DATA_MANIFESTS="+s.image.Descriptor.Digest.String(), "OCI_RO_DATA_BLOBS="+strings.Join(blobs, " "), "OCI_RO_DATA_REFERRERS="+s.image.Descriptor.Digest.String())
	out, _ := cmd.CombinedOutput() // it fails when it writes its reports of a registry that nothing can be pushed to
	text, _, _ := strings.Cut(string(out), "panic:")
	if !strings.Contains(text, "OCI Conformance Result: Pass") || strings.Contains(text, "FAIL:") {
		t.Errorf("%s", out)
	}
	for _, api := range []string{"Tag listing", "Blob get", "Blob head", "Manifest get by digest", "Manifest get by tag", "Manifest head by digest", "Manifest head by tag", "Referrers", "Ping"} {
		if !regexp.MustCompile(regexp.QuoteMeta(api) + `\.+: +Pass`).MatchString(text) {
			t.Errorf("%s isn't said to pass", api)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// Real clients pull from it, directly and as their mirror.
func TestInteropServe(t *testing.T) {
	s := serveStore(t)
	t.Run("skopeo", func(t *testing.T) {
		command(t, tool(t, "skopeo"), "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://"+s.host+"/library/app:1", "oci:"+filepath.Join(t.TempDir(), "out")+":1")
	})
	t.Run("crane", func(t *testing.T) {
		command(t, filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "crane"), "pull", "--insecure", s.host+"/library/app:1", filepath.Join(t.TempDir(), "out.tar"))
	})
	t.Run("oras", func(t *testing.T) {
		oras := filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "oras")
		command(t, oras, "cp", "--from-plain-http", s.host+"/library/app:1", "--to-oci-layout", filepath.Join(t.TempDir(), "out")+":1")
		command(t, oras, "repo", "tags", "--plain-http", s.host+"/library/app")
		command(t, oras, "discover", "--plain-http", s.host+"/library/app:1")
	})
	t.Run("drayage", func(t *testing.T) {
		command(t, s.drayage, "pull", "-q", "--store", filepath.Join(t.TempDir(), "store"), "--mirror", "docker.io=http://"+s.host, "app:1")
	})
	t.Run("podman, by a mirror", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "pm") // its paths must be short
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		conf := filepath.Join(dir, "registries.conf")
		text := fmt.Sprintf("[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"%s\"\ninsecure = true\n", s.host)
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Setenv("CONTAINERS_REGISTRIES_CONF", conf)
		command(t, tool(t, "podman"), "--root", dir+"/root", "--runroot", dir+"/run", "--storage-driver", "vfs", "pull", "-q", "docker.io/library/app:1")
	})
	t.Run("containerd 2, by hosts.toml", func(t *testing.T) {
		programs, _ := filepath.Glob(filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "containerd-v2*"))
		if len(programs) == 0 {
			t.Fatal("containerd 2 is not installed: make interop installs what is needed")
		}
		client := strings.Replace(programs[0], "containerd-v2", "ctr-v2", 1)
		dir := runContainerd(t, programs[0], client, 3)
		hosts := filepath.Join(t.TempDir(), "docker.io")
		if err := os.MkdirAll(hosts, 0o755); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("server = \"https://registry-1.docker.io\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", s.host)
		if err := os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		command(t, client, "-a", dir+"/sock", "image", "pull", "--hosts-dir", filepath.Dir(hosts), "--all-platforms", "docker.io/library/app:1")
	})
	t.Run("docker, directly", func(t *testing.T) {
		docker := startDocker(t)
		docker(t, "pull", "-q", s.host+"/library/app:1")
	})
	t.Run("docker, by a mirror", func(t *testing.T) {
		docker := startDocker(t, "--registry-mirror", "http://"+s.host)
		docker(t, "pull", "-q", "app:1")
	})
}

// HTTPS and a password, for real clients.
func TestInteropServeTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key, users := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "users")
	certificate(t, cert, key)
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(users, []byte("ann:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serveStore(t, "--tls-cert", cert, "--tls-key", key, "--htpasswd", users)
	trusted := filepath.Join(dir, "certs")
	if err := os.MkdirAll(trusted, 0o755); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(trusted, "ca.crt"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	out := "oci:" + filepath.Join(dir, "out") + ":1"
	skopeo := []string{"--insecure-policy", "copy", "-q", "--src-cert-dir", trusted}
	command(t, tool(t, "skopeo"), append(skopeo, "--src-creds", "ann:s3cret", "docker://"+s.host+"/library/app:1", out)...)
	for _, creds := range []string{"ann:wrong", "bob:s3cret"} {
		if _, err := try("skopeo", append(skopeo, "--src-creds", creds, "docker://"+s.host+"/library/app:1", out)...); err == nil {
			t.Errorf("%s is let in", creds)
		}
	}
	t.Setenv("CRED", "ann:s3cret")
	command(t, s.drayage, "pull", "-q", "-a", "env:CRED", "--ca-cert", cert, "--store", filepath.Join(dir, "other"), s.host+"/library/app:1")
}
