//go:build interop && linux

package main_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"drayage/engine/registry/registrytest"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"
)

// examples is the folder of units and other files to begin from.
var examples = filepath.Join("..", "..", "docs", "examples")

// unitFiles are the units by their names, with the program at a path and other words
// replaced, as for strings.NewReplacer.
func unitFiles(t *testing.T, replaced ...string) map[string]string {
	t.Helper()
	units := map[string]string{}
	for _, kind := range []string{"service", "socket", "timer"} {
		files, err := filepath.Glob(filepath.Join(examples, "*."+kind))
		if err != nil || len(files) == 0 {
			t.Fatalf("there are no examples of a %s (%v)", kind, err)
		}
		for _, file := range files {
			units[filepath.Base(file)] = strings.NewReplacer(replaced...).Replace(read(t, file))
		}
	}
	return units
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// write makes a file and its folder.
func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// The units have no mistakes that systemd finds, and leave little to who takes a service
// over: an exposure of at most 2.0 of 10.
func TestInteropUnitsExposure(t *testing.T) {
	analyze := tool(t, "systemd-analyze")
	dir := t.TempDir()
	var services []string
	for name, text := range unitFiles(t, "/usr/local/bin/drayage", "/bin/true") { // verify looks whether it is there
		write(t, filepath.Join(dir, name), text, 0o644)
		if strings.HasSuffix(name, ".service") {
			services = append(services, name)
		}
	}
	if len(services) != 3 {
		t.Errorf("there are %d services, not 3: %q", len(services), services)
	}
	for _, service := range services {
		path := filepath.Join(dir, service)
		if out := command(t, analyze, "verify", "--man=no", path); strings.Contains(out, dir) {
			t.Errorf("%s: %s", service, out)
		}
		if out, err := try(analyze, "security", "--offline=true", "--threshold=20", "--no-pager", path); err != nil {
			t.Errorf("%s: %v\n%s", service, err, out)
		}
	}
}

// container is a systemd that runs for a test.
type container struct {
	t   *testing.T
	pid int
	log *bytes.Buffer
}

// boot starts systemd with files over this machine's, which the folder files/ in dir
// has. It skips the test where that is not to be had.
func boot(t *testing.T, dir string) *container {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the units are not started: a container with systemd needs root")
	}
	if _, err := os.Stat("/usr/lib/systemd/systemd"); err != nil {
		t.Skip("the units are not started: there is no systemd: ", err)
	}
	cgroup := fmt.Sprintf("drayage-interop-%d", os.Getpid())
	c := &container{t: t, log: new(bytes.Buffer)}
	cmd := exec.Command("bash", filepath.Join("testdata", "interop", "systemd.sh"), dir, cgroup)
	cmd.Stdout, cmd.Stderr = c.log, c.log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL, // when the thread ends that starts it
	}
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		t.Skip("the units are not started: no namespaces are to be had: ", err)
	}
	c.pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // with it, all of its namespace
		<-ended
		removeCgroups(t, cgroup)
		if t.Failed() {
			t.Logf("systemd said:\n%s", c.log)
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for {
		// It says so when everything it was to start has started, whether or not all of it could.
		if state, _ := c.try("systemctl", "is-system-running"); slices.Contains([]string{"running", "degraded"}, strings.TrimSpace(state)) {
			return c
		}
		select {
		case <-ended:
			t.Skipf("the units are not started: systemd doesn't run here:\n%s", c.log)
		case <-timeout:
			t.Skip("the units are not started: systemd doesn't get ready here")
		case <-tick.C:
		}
	}
}

// removeCgroups removes what a container leaves when its processes are gone.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		tops, _ := filepath.Glob(pattern + name)
		for _, top := range tops {
			var all []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					all = append(all, path)
				}
				return nil
			})
			for _, path := range slices.Backward(all) {
				if err := syscall.Rmdir(path); err != nil {
					t.Logf("%s stays: %v", path, err)
				}
			}
		}
	}
}

func (c *container) try(name string, args ...string) (string, error) {
	return try("nsenter", append([]string{"--target", fmt.Sprint(c.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--wd=/", "--", name}, args...)...)
}

// run runs a program in it and returns what it wrote.
func (c *container) run(name string, args ...string) string {
	c.t.Helper()
	out, err := c.try(name, args...)
	if err != nil {
		journal, _ := c.try("journalctl", "--no-pager", "-t", "systemd", "-t", "drayage", "-t", "(drayage)")
		c.t.Fatalf("%s %s: %v\n%s\njournal:\n%s", name, strings.Join(args, " "), err, out, journal)
	}
	return out
}

// property is what systemd says of a unit.
func (c *container) property(unit, name string) string {
	c.t.Helper()
	return strings.TrimSpace(c.run("systemctl", "show", "--value", "-p", name, unit))
}

// eventually waits until a command succeeds.
func (c *container) eventually(name string, args ...string) {
	c.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for {
		if _, err := c.try(name, args...); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			c.run(name, args...) // which says why
			return
		}
	}
}

// The units run under systemd as they are in the examples, but for the registry: with a
// socket of systemd's, one user and store for all, a password for upstream that is root's
// file, hooks, a ready file, HTTPS and a password file; and their limits are the kernel's.
func TestInteropUnits(t *testing.T) {
	dir := t.TempDir()
	files := filepath.Join(dir, "files")
	program, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(files, "usr/local/bin/drayage"), string(program), 0o755)

	// Upstream is a registry in the container that wants a password: it serves a store that is filled here.
	const upstream = "127.0.0.1:5001"
	up := registrytest.New()
	defer up.Close()
	up.Push("library/app", "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(1, 200_000)))
	up.Push("library/app", "2", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(2, 200_000)))
	command(t, filepath.Join(files, "usr/local/bin/drayage"), "pull", "-q", "--no-sync", "--store", filepath.Join(files, "srv/upstream"), "--mirror", "docker.io=http://"+up.Host(), "app:1", "app:2")
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(files, "srv/users"), "ann:"+string(hash)+"\n", 0o600)
	write(t, filepath.Join(files, "etc/systemd/system/upstream.service"),
		"[Service]\nType=notify\nExecStart=/usr/local/bin/drayage serve --store /srv/upstream --listen "+upstream+" --htpasswd /srv/users\n", 0o644)

	etc := filepath.Join(files, "etc/drayage")
	for name, text := range unitFiles(t, "docker.io,ghcr.io", upstream) {
		write(t, filepath.Join(files, "etc/systemd/system", name), text, 0o644)
	}
	write(t, filepath.Join(files, "etc/sysusers.d/drayage.conf"), read(t, filepath.Join(examples, "drayage.sysusers")), 0o644)
	write(t, filepath.Join(etc, "config.json"), fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, upstream, base64.StdEncoding.EncodeToString([]byte("ann:s3cret"))), 0o600)
	write(t, filepath.Join(etc, "warm.yaml"), `
hooks:
  fresh:
    - command: [sh, -c, "cat > /run/drayage/fresh.json"]
groups:
  - name: app
    every: 6h
    images: [`+upstream+`/library/app:2]
    ready_file: /run/drayage/app.ready
`, 0o644)
	certificate(t, filepath.Join(etc, "cert.pem"), filepath.Join(etc, "key.pem"))
	write(t, filepath.Join(etc, "users"), "bob:"+string(hash)+"\n", 0o640)

	c := boot(t, dir)
	c.run("systemd-sysusers")
	c.run("chgrp", "drayage", "/etc/drayage/cert.pem", "/etc/drayage/key.pem", "/etc/drayage/users")
	c.run("chmod", "0640", "/etc/drayage/cert.pem", "/etc/drayage/key.pem", "/etc/drayage/users")
	c.run("systemctl", "start", "upstream.service")

	// The socket alone: a client's request starts the service. The client has no password.
	const (
		serve = "drayage-serve.service"
		warm  = "drayage-warm.service"
		once  = "drayage-warm-once.service"
	)
	client := []string{"env", "HOME=/nonexistent", "drayage", "pull", "-q", "--store"}
	c.run("systemctl", "start", "drayage-serve.socket")
	c.run("env", append(client[1:], "/tmp/client", "--mirror", upstream+"=http://127.0.0.1:5000", upstream+"/library/app:1")...)
	if out, err := c.try("env", append(client[1:], "/tmp/other", upstream+"/library/app:1")...); err == nil {
		t.Errorf("upstream wants no password:\n%s", out)
	}
	if got := c.property(serve, "ActiveState"); got != "active" {
		t.Errorf("%s is %s after a request", serve, got)
	}
	c.confined(serve)
	c.limited(serve, 1<<30, 4608)

	// Warm beside it, in the same store.
	c.run("systemctl", "start", warm)
	c.eventually("test", "-e", "/run/drayage/app.ready")
	c.eventually("test", "-s", "/run/drayage/fresh.json")
	c.confined(warm)
	c.limited(warm, 1<<30, 512)
	c.run("systemctl", "reload", warm)
	for _, tag := range []string{"1", "2"} { // one came by serve, the other by warm
		if got := c.run("setpriv", "--reuid=drayage", "--regid=drayage", "--clear-groups", "drayage", "store", "ls", "--store", "/var/lib/drayage"); !strings.Contains(got, upstream+"/library/app:"+tag) {
			t.Errorf("the store has no app:%s:\n%s", tag, got)
		}
	}
	c.run("systemctl", "stop", warm)
	if got := c.property(warm, "Result"); got != "success" {
		t.Errorf("%s ends with %s", warm, got)
	}

	// One round, and its timer. Whoever waits for the file isn't the service's user.
	c.run("systemctl", "start", "drayage-warm-once.timer")
	if got := c.property("drayage-warm-once.timer", "NextElapseUSecRealtime"); got == "" {
		t.Error("the timer has no next time")
	}
	c.run("systemctl", "start", once)
	c.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "test", "-e", "/run/drayage/app.ready")
	if got := c.run("stat", "-c", "%U:%G %a", "/var/lib/drayage"); strings.TrimSpace(got) != "drayage:drayage 700" {
		t.Errorf("the store's folder is %s", got)
	}

	// HTTPS and passwords, by the drop-in.
	conf := strings.ReplaceAll(read(t, filepath.Join(examples, "drayage-serve-https.conf")), "docker.io,ghcr.io", upstream)
	c.run("mkdir", "-p", "/etc/systemd/system/drayage-serve.service.d")
	c.run("sh", "-c", `printf %s "$1" > /etc/systemd/system/drayage-serve.service.d/https.conf`, "sh", conf)
	c.run("systemctl", "daemon-reload")
	c.run("systemctl", "restart", serve)
	c.run("curl", "-fsS", "--cacert", "/etc/drayage/cert.pem", "-u", "bob:s3cret", "https://127.0.0.1:5000/v2/")
	c.run("curl", "-fsS", "--cacert", "/etc/drayage/cert.pem", "https://127.0.0.1:5000/readyz")
	if out, err := c.try("curl", "-fsS", "--cacert", "/etc/drayage/cert.pem", "-u", "bob:wrong", "https://127.0.0.1:5000/v2/"); err == nil {
		t.Errorf("a wrong password is right:\n%s", out)
	}
	c.run("systemctl", "stop", serve)
	if got := c.property(serve, "Result"); got != "success" {
		t.Errorf("%s ends with %s", serve, got)
	}
}

// confined checks that the kernel holds a unit's process to what the unit says.
func (c *container) confined(unit string) {
	c.t.Helper()
	pid := c.property(unit, "MainPID")
	status := c.run("cat", "/proc/"+pid+"/status")
	user := strings.TrimSpace(c.run("id", "-u", "drayage"))
	for _, want := range []string{"Uid:\t" + user + "\t", "NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"} {
		if !strings.Contains(status, want) {
			c.t.Errorf("%s: %q isn't in\n%s", unit, want, status)
		}
	}
	if limits := strings.Join(strings.Fields(c.run("cat", "/proc/"+pid+"/limits")), " "); !strings.Contains(limits, "Max open files 16384 16384") {
		c.t.Errorf("%s: %s", unit, limits)
	}
	if out, err := c.try("nsenter", "--target", pid, "--mount", "--", "sh", "-c", "echo x > /etc/planted"); err == nil {
		c.t.Errorf("%s can write to /etc: %s", unit, out)
	}
}

// limited checks a unit's limits where the kernel has them: in its cgroup, where this
// machine has controllers for that.
func (c *container) limited(unit string, memory, tasks int) {
	c.t.Helper()
	cgroup := c.property(unit, "ControlGroup")
	for _, limit := range []struct {
		value int
		paths []string // for cgroups v1 and v2
	}{
		{memory, []string{"/sys/fs/cgroup/memory" + cgroup + "/memory.limit_in_bytes", "/sys/fs/cgroup" + cgroup + "/memory.max"}},
		{tasks, []string{"/sys/fs/cgroup/pids" + cgroup + "/pids.max", "/sys/fs/cgroup" + cgroup + "/pids.max"}},
	} {
		found := false
		for _, path := range limit.paths {
			got, err := c.try("cat", path)
			if err != nil {
				continue
			}
			found = true
			if strings.TrimSpace(got) != fmt.Sprint(limit.value) {
				c.t.Errorf("%s: %s is %s, not %d", unit, path, got, limit.value)
			}
		}
		if !found {
			c.t.Logf("%s: no limit is looked at: this machine gives its containers none of %q", unit, limit.paths)
		}
	}
}

// The example for Kubernetes is of its API's types, and its pods have no more rights
// than they need.
func TestInteropKubernetes(t *testing.T) {
	command(t, filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "kube"), filepath.Join(examples, "kubernetes.yaml"))
}

// The DaemonSet's containers work with what they get there, as far as systemd can give
// the same: another user, nothing but the program and the volumes, only the store
// writable, no capabilities, the memory.
func TestInteropKubernetesPod(t *testing.T) {
	dir := t.TempDir()
	pod := filepath.Join(dir, "files/srv/pod")
	t.Setenv("CGO_ENABLED", "0") // nothing else is there to be linked with
	program, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(pod, "drayage"), string(program), 0o755)
	example := read(t, filepath.Join(examples, "kubernetes.yaml"))
	write(t, filepath.Join(pod, "credentials/config.json"), `{}`, 0o444)
	if err := os.Mkdir(filepath.Join(pod, "store"), 0o755); err != nil {
		t.Fatal(err)
	}

	write(t, filepath.Join(dir, "files/etc/sysusers.d/pod.conf"), "u pod 65532\n", 0o644) // systemd wants users to have names

	c := boot(t, dir)
	c.run("systemd-sysusers")
	c.run("chown", "-R", "pod:pod", "/srv/pod/store")
	for documents := yaml.NewDecoder(strings.NewReader(example)); ; {
		var o struct {
			Kind string
			Data map[string]string
			Spec struct {
				Template struct {
					Spec struct {
						Containers []struct {
							Name      string
							Args      []string
							Env       []struct{ Name, Value string }
							Resources struct{ Limits struct{ Memory string } }
						}
					}
				}
			}
		}
		if err := documents.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for name, text := range o.Data {
			c.run("mkdir", "-p", "/srv/pod/config")
			c.run("sh", "-c", `printf %s "$1" > "/srv/pod/config/$2"`, "sh", text, name)
		}
		for _, container := range o.Spec.Template.Spec.Containers {
			run := []string{"--unit=pod-" + container.Name, "-p", "User=pod", "-p", "RootDirectory=/srv/pod", "-p", "MountAPIVFS=yes",
				"-p", "ReadOnlyPaths=/", "-p", "ReadWritePaths=/store", "-p", "CapabilityBoundingSet=", "-p", "NoNewPrivileges=yes", "-p", "SystemCallFilter=@system-service",
				"-p", "MemoryMax=" + strings.TrimSuffix(container.Resources.Limits.Memory, "i")}
			for _, e := range container.Env {
				run = append(run, "-p", "Environment="+e.Name+"="+e.Value)
			}
			c.run("systemd-run", append(append(run, "/drayage"), container.Args...)...)
		}
	}
	c.eventually("curl", "-fsS", "http://127.0.0.1:5000/readyz")
	c.run("curl", "-fsS", "-H", "Host: 127.0.0.1:5000", "http://127.0.0.1:5000/v2/")
	c.eventually("test", "-d", "/srv/pod/store/blobs")
	for _, unit := range []string{"pod-serve", "pod-warm"} {
		if got := c.property(unit, "ActiveState"); got != "active" {
			t.Errorf("%s is %s:\n%s", unit, got, c.run("journalctl", "--no-pager", "-u", unit))
		}
		c.run("systemctl", "stop", unit)
		if got := c.property(unit, "Result"); got != "success" {
			t.Errorf("%s ends with %s", unit, got)
		}
	}
}
