//go:build interop

package main_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// tool finds a program that setup.sh installs. A missing one fails the test:
// interop is worth nothing where it skips.
func tool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	t.Fatalf("%s is not installed: make interop installs what is needed", name)
	return ""
}

// build makes the program once a test.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "drayage")
	command(t, "go", "build", "-o", bin, ".")
	return bin
}

// command runs a program and returns what it wrote.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// service runs a program until the test ends and waits until ready is true.
func service(t *testing.T, ready func() bool, name string, args ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", name, log.String())
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(60 * time.Second)
	for !ready() {
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("%s ended:\n%s", name, log.String())
		case <-timeout:
			t.Fatalf("%s is not ready:\n%s", name, log.String())
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// realRegistry is a registry of the distribution project on this machine.
type realRegistry struct {
	address string
	scheme  string
	auth    string // user:password
	client  *http.Client
	caFile  string
}

// startRegistry starts one. Its configuration is what version 2 and 3 both
// understand.
func startRegistry(t *testing.T, program string, auth, withTLS bool) *realRegistry {
	t.Helper()
	dir := t.TempDir()
	r := &realRegistry{address: freeAddress(t), scheme: "http", client: http.DefaultClient}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp:\n  addr: %s\n", dir, r.address)
	if withTLS {
		r.scheme, r.caFile = "https", filepath.Join(dir, "cert.pem")
		pool := certificate(t, r.caFile, filepath.Join(dir, "key.pem"))
		r.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
		config += fmt.Sprintf("  tls: {certificate: %s, key: %s/key.pem}\n", r.caFile, dir)
	}
	if auth {
		r.auth = "ann:s3cret"
		file := filepath.Join(dir, "htpasswd")
		command(t, tool(t, "htpasswd"), "-Bbc", file, "ann", "s3cret")
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", file)
	}
	path := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	service(t, func() bool {
		resp, err := r.client.Get(r.scheme + "://" + r.address + "/v2/")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	}, program, "serve", path)
	return r
}

// certificate writes a certificate for 127.0.0.1 and its key.
func certificate(t *testing.T, certFile, keyFile string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "interop"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, text := range map[string][]byte{certFile: cert, keyFile: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

func (r *realRegistry) do(t *testing.T, method, url, contentType string, body []byte) *http.Response {
	t.Helper()
	if !strings.Contains(url, "://") {
		url = r.scheme + "://" + r.address + url
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if user, password, ok := strings.Cut(r.auth, ":"); ok {
		req.SetBasicAuth(user, password)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s %s", method, url, resp.Status, text)
	}
	return resp
}

func (r *realRegistry) push(t *testing.T, repo, tag string, img registrytest.Image) string {
	t.Helper()
	for d, content := range img.Blobs {
		location := r.do(t, "POST", "/v2/"+repo+"/blobs/uploads/", "", nil).Header.Get("Location")
		sep := "?"
		if strings.Contains(location, "?") {
			sep = "&"
		}
		r.do(t, "PUT", location+sep+"digest="+d.String(), "application/octet-stream", content)
	}
	if tag == "" {
		tag = img.Descriptor.Digest.String()
	}
	return r.pushManifest(t, repo, tag, img.Descriptor.MediaType, img.Manifest)
}

func (r *realRegistry) pushManifest(t *testing.T, repo, tag, mediaType string, raw []byte) string {
	t.Helper()
	r.do(t, "PUT", "/v2/"+repo+"/manifests/"+tag, mediaType, raw)
	return r.address + "/" + repo + ":" + tag
}

func distributionV3(t *testing.T) string {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "registry-v3*"))
	if len(files) == 0 {
		t.Fatal("distribution v3 is not installed: make interop installs what is needed")
	}
	return files[len(files)-1]
}

// set is the images that the tests push: both formats, layers shared and
// twice, no layers, several platforms.
type set struct {
	names  []string
	images map[string]registrytest.Image // for linux/amd64
}

func pushSet(t *testing.T, r *realRegistry) set {
	t.Helper()
	s := set{images: make(map[string]registrytest.Image)}
	base, top := registrytest.Layer(1, 3<<20), registrytest.Layer(2, 100_000)
	add := func(name string, img registrytest.Image) {
		s.names = append(s.names, name)
		s.images[name] = img
	}
	for tag, img := range map[string]registrytest.Image{
		"oci":    registrytest.Build("linux/amd64", base, top),
		"docker": registrytest.BuildDocker("linux/amd64", base, registrytest.Layer(3, 200_000)),
		"twice":  registrytest.Build("linux/amd64", base, top, base),
	} {
		add(r.push(t, "team/app", tag, img), img)
	}
	amd, arm := registrytest.Build("linux/amd64", base, registrytest.Layer(4, 1000)), registrytest.Build("linux/arm64/v8", registrytest.Layer(5, 1000))
	r.push(t, "deep/er/multi", "", amd)
	r.push(t, "deep/er/multi", "", arm)
	raw := registrytest.Index(ocispec.MediaTypeImageIndex, amd.Descriptor, arm.Descriptor)
	add(r.pushManifest(t, "deep/er/multi", "1", ocispec.MediaTypeImageIndex, raw), amd)
	slices.Sort(s.names)
	return s
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

func TestInteropRegistries(t *testing.T) {
	bin := build(t)
	for name, program := range map[string]string{"v2": tool(t, "docker-registry"), "v3": distributionV3(t)} {
		for _, c := range []struct {
			name      string
			auth, tls bool
		}{{"plain", false, false}, {"htpasswd", true, false}, {"htpasswd and TLS", true, true}} {
			t.Run(name+" "+c.name, func(t *testing.T) {
				r := startRegistry(t, program, c.auth, c.tls)
				images := pushSet(t, r)
				store, out := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "out.tar")
				pull := func(extra ...string) (string, string, int) {
					args := append([]string{"pull", "--store", store, "--platform", "linux/amd64", "--force", "-o", out}, extra...)
					if c.tls {
						args = append(args, "--ca-cert", r.caFile)
					}
					cmd := exec.CommandContext(t.Context(), bin, args...)
					cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir(), "REG_AUTH="+r.auth)
					var stdout, stderr bytes.Buffer
					cmd.Stdout, cmd.Stderr = &stdout, &stderr
					err := cmd.Run()
					return stdout.String(), stderr.String(), exitStatus(err)
				}
				with := images.names
				if c.auth {
					if _, stderr, status := pull(images.names...); status != 3 || strings.Count(stderr, "drayage:") != 1 {
						t.Errorf("without credentials: status %d\n%s", status, stderr)
					}
					if _, stderr, status := pull(append(images.names, "-a", "ann:wrong")...); status != 3 {
						t.Errorf("with a wrong password: status %d\n%s", status, stderr)
					}
					with = append(slices.Clone(with), "-a", "env:REG_AUTH")
				}
				stdout, stderr, status := pull(with...)
				if status != 0 || strings.Count(stdout, "\n") != len(images.names) {
					t.Fatalf("status %d\n%s\n%s", status, stdout, stderr)
				}
				first, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				stdout, stderr, status = pull(with...)
				for line := range strings.Lines(stdout) {
					if fields := strings.Fields(line); fields[2] != "0" {
						t.Errorf("a second pull fetched something: %s", line)
					}
				}
				again, err := os.ReadFile(out)
				if status != 0 || err != nil || !bytes.Equal(first, again) {
					t.Errorf("the second archive differs (status %d, %v)\n%s", status, err, stderr)
				}
				if _, stderr, status := pull(append(with, r.address+"/team/app:absent")...); status != 4 {
					t.Errorf("an absent tag: status %d\n%s", status, stderr)
				}
			})
		}
	}
}

// inspection is what docker and podman tell of an image.
type inspection struct {
	ID       string `json:"Id"`
	RepoTags []string
	RootFS   struct{ Layers []digest.Digest }
}

func (s set) check(t *testing.T, inspect func(name string) string) {
	t.Helper()
	for name, img := range s.images {
		var got []inspection
		if err := json.Unmarshal([]byte(inspect(name)), &got); err != nil || len(got) != 1 {
			t.Fatalf("%s: %v, %d images", name, err, len(got))
		}
		if id := strings.TrimPrefix(got[0].ID, "sha256:"); id != img.Config.Digest.Encoded() {
			t.Errorf("%s has the id %s, want %s", name, id, img.Config.Digest)
		}
		if !slices.Contains(got[0].RepoTags, name) || len(got[0].RootFS.Layers) != len(img.Layers) {
			t.Errorf("%s: tags %v, %d layers; want %d", name, got[0].RepoTags, len(got[0].RootFS.Layers), len(img.Layers))
		}
	}
}

func TestInteropLoaders(t *testing.T) {
	bin := build(t)
	r := startRegistry(t, tool(t, "docker-registry"), false, false)
	images := pushSet(t, r)
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	archive := map[string]string{}
	for _, format := range []string{"docker", "oci"} {
		archive[format] = filepath.Join(dir, format+".tar")
		command(t, bin, append([]string{"pull", "--store", store, "--platform", "linux/amd64", "--format", format, "-o", archive[format]}, images.names...)...)
	}
	single := filepath.Join(dir, "single.tar")
	command(t, bin, "pull", "--store", store, "--format", "oci", "-o", single, r.address+"/team/app:oci")

	t.Run("docker", func(t *testing.T) {
		docker := startDocker(t)
		docker(t, "load", "-i", archive["docker"])
		images.check(t, func(name string) string { return docker(t, "image", "inspect", name) })
	})
	t.Run("docker by -l", func(t *testing.T) {
		docker := startDocker(t) // sets DOCKER_HOST, which the docker that -l runs heeds
		out := command(t, bin, append([]string{"pull", "-l", "--store", store, "--platform", "linux/amd64"}, images.names...)...)
		if !strings.Contains(out, "Loaded image") {
			t.Errorf("docker's word is not passed on:\n%s", out)
		}
		images.check(t, func(name string) string { return docker(t, "image", "inspect", name) })

		cmd := exec.CommandContext(t.Context(), bin, "pull", "-l", "--store", store, images.names[0])
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix:///nowhere")
		if text, err := cmd.CombinedOutput(); exitStatus(err) != 7 || !strings.Contains(string(text), "docker load") {
			t.Errorf("with no daemon: %v\n%s", err, text)
		}
	})
	t.Run("podman", func(t *testing.T) {
		root := t.TempDir()
		podman := func(args ...string) string {
			return command(t, tool(t, "podman"), append([]string{"--root", root + "/root", "--runroot", root + "/run", "--storage-driver", "vfs"}, args...)...)
		}
		podman("load", "-i", archive["docker"])
		images.check(t, func(name string) string { return podman("image", "inspect", name) })
		podman("rmi", "-a", "-f")
		podman("load", "-i", single)
		podman("image", "inspect", r.address+"/team/app:oci")
	})
	t.Run("containerd", func(t *testing.T) {
		ctr := startContainerd(t)
		for format, file := range archive {
			ctr("images", "import", "--snapshotter", "native", file)
			listed := ctr("images", "ls")
			for name, img := range images.images {
				if !strings.Contains(listed, name+" ") || !strings.Contains(listed, img.Descriptor.Digest.String()) {
					t.Errorf("%s: %s is not listed with %s:\n%s", format, name, img.Descriptor.Digest, listed)
				}
			}
			ctr(append([]string{"images", "rm", "--sync"}, images.names...)...)
		}
	})
	t.Run("skopeo", func(t *testing.T) {
		for name, img := range images.images {
			target := t.TempDir()
			command(t, tool(t, "skopeo"), "--insecure-policy", "copy", "docker-archive:"+archive["docker"]+":"+name, "dir:"+target)
			if _, err := os.Stat(filepath.Join(target, img.Config.Digest.Encoded())); err != nil {
				t.Errorf("%s: the config is not there: %v", name, err)
			}
		}
		command(t, tool(t, "skopeo"), "--insecure-policy", "copy", "oci-archive:"+single, "dir:"+t.TempDir())
		// The store is an OCI layout that others read.
		command(t, tool(t, "skopeo"), "--insecure-policy", "--override-arch", "amd64", "copy", "oci:"+store+":"+r.address+"/team/app:oci", "dir:"+t.TempDir())
	})
	t.Run("tar", func(t *testing.T) {
		for _, program := range []string{"tar", "bsdtar"} {
			for _, file := range archive {
				target := t.TempDir()
				command(t, tool(t, program), "-xf", file, "-C", target)
				blobs, err := filepath.Glob(filepath.Join(target, "blobs/sha256/*"))
				if err != nil || len(blobs) == 0 {
					t.Fatalf("%s unpacked %d blobs, %v", program, len(blobs), err)
				}
				for _, b := range blobs {
					raw, err := os.ReadFile(b)
					if err != nil || digest.FromBytes(raw).Encoded() != filepath.Base(b) {
						t.Errorf("%s: %s is damaged (%v)", program, b, err)
					}
				}
			}
		}
	})
}

// startDocker starts a daemon of its own and returns its client.
func startDocker(t *testing.T, flags ...string) func(t *testing.T, args ...string) string {
	t.Helper()
	// Its socket's path must fit 108 bytes, which test folders may not.
	dir, err := os.MkdirTemp("", "dk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := "unix://" + dir + "/sock"
	service(t, func() bool {
		return exec.Command("docker", "-H", socket, "version").Run() == nil
	}, tool(t, "dockerd"), append([]string{"--data-root", dir + "/root", "--exec-root", dir + "/exec", "--pidfile", dir + "/pid", "-H", socket,
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"}, flags...)...)
	t.Setenv("DOCKER_HOST", socket)
	return func(t *testing.T, args ...string) string {
		t.Helper()
		return command(t, "docker", append([]string{"-H", socket}, args...)...)
	}
}

// startContainerd starts a containerd of its own and returns its client.
func startContainerd(t *testing.T) func(args ...string) string {
	t.Helper()
	ctr := tool(t, "ctr")
	dir := runContainerd(t, tool(t, "containerd"), ctr, 2)
	return func(args ...string) string {
		t.Helper()
		return command(t, ctr, append([]string{"-a", dir + "/sock"}, args...)...)
	}
}

// runContainerd runs a containerd, whose socket is in the folder that it returns.
// version is that of its configuration's format.
func runContainerd(t *testing.T, program, ctr string, version int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := fmt.Sprintf("version = %d\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n  address = %q\n",
		version, dir+"/root", dir+"/state", dir+"/sock")
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	service(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return exec.CommandContext(ctx, ctr, "-a", dir+"/sock", "version").Run() == nil
	}, program, "-c", dir+"/config.toml")
	return dir
}

// A disk that is too small, for the store and for the archive: status 7, one
// line, and nothing left of the archive.
func TestInteropFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	bin := build(t)
	server := registrytest.New()
	defer server.Close()
	name := server.Push("big", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 6<<20), registrytest.Random(2, 1<<20)))
	small := t.TempDir()
	command(t, "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small)
	t.Cleanup(func() { exec.Command("umount", small).Run() })
	roomy := t.TempDir()
	for _, args := range [][]string{
		{"--store", small + "/store", "-o", roomy + "/x.tar"},
		{"--store", roomy + "/store", "-o", small + "/x.tar"},
		{"--store", roomy + "/store", "-d", small + "/x"},
	} {
		cmd := exec.CommandContext(t.Context(), bin, append([]string{"pull", "-q", "--platform", "linux/amd64", name}, args...)...)
		out, err := cmd.CombinedOutput()
		if exitStatus(err) != 7 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "no space") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		for _, dir := range []string{small, roomy} {
			if left, _ := filepath.Glob(dir + "/x*"); len(left) > 0 {
				t.Errorf("%v: left behind: %v", args, left)
			}
		}
		if err := os.RemoveAll(small + "/store"); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that fills up while blobs arrive ends the pull with what arrived kept,
// and the pull goes on once there is room.
func TestInteropDiskThatFillsUp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	const size = 8 << 20
	bin := build(t)
	server := registrytest.New()
	defer server.Close()
	small := t.TempDir()
	command(t, "mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small)
	t.Cleanup(func() { exec.Command("umount", small).Run() })
	name := server.Push("big", "1", registrytest.Build("linux/amd64", registrytest.Random(1, size)))
	cmd := exec.CommandContext(t.Context(), bin, "pull", "-q", "--platform", "linux/amd64", "--store", small+"/store", "--limit-rate", "4M", name)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); server.Sent() < size/4; {
		if time.Since(began) > time.Minute {
			t.Fatal("the pull doesn't get there")
		}
		time.Sleep(time.Millisecond) // until the pull is that far: there is nobody to ask but the link
	}
	filler, err := os.Create(small + "/filler")
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 64<<10))
	}
	filler.Close()
	if err := cmd.Wait(); exitStatus(err) != 7 || strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), "missing") {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	if err := os.Remove(small + "/filler"); err != nil {
		t.Fatal(err)
	}
	command(t, bin, "pull", "-q", "--platform", "linux/amd64", "--store", small+"/store", name)
	const inFlight = 5 << 20 // the sockets of loopback hold so much
	if sent := server.Sent(); sent > size+inFlight {
		t.Errorf("%d bytes sent for %d", sent, size)
	}
}

// On file systems that share extents an archive takes no new blocks for its
// layers, in one file, in volumes and as a folder.
func TestInteropReflinks(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("mounting needs root")
	}
	bin := build(t)
	server := registrytest.New()
	defer server.Close()
	const size = 40 << 20
	name := server.Push("big", "1", registrytest.Build("linux/amd64", registrytest.Random(1, size), registrytest.Random(2, size+12_345)))
	plain := filepath.Join(t.TempDir(), "plain.tar")
	command(t, bin, "pull", "-q", "--store", t.TempDir()+"/store", "--platform", "linux/amd64", "-o", plain, name)
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			command(t, "truncate", "-s", "600M", disk)
			command(t, tool(t, "mkfs."+kind), "-q", disk)
			mount := t.TempDir()
			command(t, "mount", "-o", "loop", disk, mount)
			t.Cleanup(func() { exec.Command("umount", mount).Run() })
			free := func() int64 {
				command(t, "sync", "-f", mount)
				var s unix.Statfs_t
				if err := unix.Statfs(mount, &s); err != nil {
					t.Fatal(err)
				}
				return int64(s.Bfree) * s.Bsize
			}
			pull := func(args ...string) string {
				return command(t, bin, append([]string{"pull", "-p", "json", "--store", mount + "/store", "--platform", "linux/amd64", name}, args...)...)
			}
			pull()
			before := free()
			for _, args := range [][]string{{"-o", mount + "/a.tar"}, {"-o", mount + "/v.tar", "--split", "30MiB"}, {"-d", mount + "/dir"}, {"--format", "legacy", "-o", mount + "/l.tar"}} {
				out := pull(args...)
				var cloned int64
				for line := range strings.Lines(out) {
					var e struct {
						Event string
						Data  struct{ Cloned, ByHand, Kernel int64 }
					}
					if json.Unmarshal([]byte(line), &e) == nil && e.Event == "written" {
						cloned = e.Data.Cloned
					}
				}
				if cloned < 2*size {
					t.Errorf("%v: %d bytes cloned of %d", args, cloned, 2*size)
				}
			}
			if took := before - free(); took > 8<<20 {
				t.Errorf("four outputs took %d bytes of the disk", took)
			}
			command(t, "cmp", plain, mount+"/a.tar")
			command(t, "sh", "-c", fmt.Sprintf("cat %s/v.tar.0* | cmp - %s", mount, plain))
		})
	}
}
