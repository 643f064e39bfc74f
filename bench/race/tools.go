//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// job is what a tool has to do: these images into the folder that it is run in.
type job struct {
	refs []string
	urls []string // of the layers, each once
	all  bool     // every platform of the images
}

// tool is a competitor. Its scripts are run by sh -e in the run's folder.
type tool struct {
	name    string
	needs   []string // programs
	root    bool     // needs to be root
	version []string // arguments of the first program that tell its version
	setting string   // what there is to say of how it is used
	// start, if not "", starts a daemon that works in the folder "daemon", and waits until
	// it answers. Its process is in the file daemon/pid. It isn't part of the time.
	start  string
	script func(j job) string // "" where it can't do the job
}

// each repeats a line for each image, with %[1]s for the image and %[2]d for its number.
func each(j job, line string) string {
	var b strings.Builder
	for i, r := range j.refs {
		fmt.Fprintf(&b, line+"\n", r, i)
	}
	return b.String()
}

// together repeats a command for each image, all at once.
func together(j job, line string) string {
	return "pids=\n" + each(j, line+` & pids="$pids $!"`) + "for p in $pids; do wait $p; done\n"
}

// pick is a text for all platforms or for one.
func (j job) pick(all, one string) string {
	if j.all {
		return all
	}
	return one
}

const amd64 = "--platform linux/amd64"

// competitors are the tools, each with the settings that serve it best of those that
// its documentation has.
func competitors(program, containerd string) []tool {
	ctr, daemon := "ctr-"+containerd, "containerd-"+containerd
	drayage := func(flags string) func(j job) string {
		return func(j job) string {
			return fmt.Sprintf("%s pull -q %s %s %s\n", program, flags, j.pick("--all-platforms", amd64), strings.Join(j.refs, " "))
		}
	}
	ctrNeeds := []string{ctr, daemon}
	return []tool{
		{name: "drayage, archive", needs: []string{program}, version: []string{"version"}, script: drayage("--force --store store -o out.tar")},
		{name: "drayage, archive, no sync", needs: []string{program}, version: []string{"version"}, script: drayage("--force --no-sync --store store -o out.tar")},
		{name: "drayage, store, no sync", needs: []string{program}, version: []string{"version"}, script: drayage("--no-sync --store oci")},
		{name: "drayage, store (an OCI layout)", needs: []string{program}, version: []string{"version"}, script: drayage("--store oci")},
		{name: "crane, tarball", needs: []string{"crane"}, version: []string{"version"}, script: func(j job) string {
			if j.all { // it has one platform
				return ""
			}
			return "crane pull --insecure " + amd64 + " " + strings.Join(j.refs, " ") + " out.tar\n"
		}},
		{name: "crane, OCI layout", needs: []string{"crane"}, version: []string{"version"}, script: func(j job) string {
			return "crane pull --insecure " + j.pick("", amd64+" ") + "--format oci " + strings.Join(j.refs, " ") + " oci\n"
		}},
		{name: "skopeo, OCI layout", needs: []string{"skopeo"}, version: []string{"--version"}, script: func(j job) string {
			return each(j, "skopeo --insecure-policy --override-arch amd64 copy -q "+j.pick("--all ", "")+"--src-tls-verify=false docker://%[1]s oci:oci:%[2]d")
		}},
		{name: "regctl, OCI layout", needs: []string{"regctl"}, version: []string{"version", "--format", "{{.VCSTag}}"}, script: func(j job) string {
			host, _, _ := strings.Cut(j.refs[0], "/")
			return "export REGCTL_CONFIG=$PWD/regctl.json\nregctl registry set --tls disabled " + host + " >/dev/null 2>&1\n" +
				each(j, "regctl -v error image copy "+j.pick("", amd64+" ")+"%[1]s ocidir://oci:t%[2]d >/dev/null")
		}},
		{name: "oras, OCI layout", needs: []string{"oras"}, version: []string{"version"}, script: func(j job) string {
			return each(j, "oras copy --no-tty "+j.pick("", amd64+" ")+"--from-plain-http --to-oci-layout %[1]s oci:t%[2]d >/dev/null")
		}},
		{name: "containerd, content", needs: ctrNeeds, version: []string{"--version"}, start: startContainerd(daemon, ctr),
			setting: "the daemon with `max_concurrent_downloads = 16`, `concurrent_layer_fetch_buffer = 4194304`: several connections a layer; nothing is unpacked",
			script: func(j job) string { // all platforms, so that it doesn't unpack: the images have one, unless all are asked for
				return together(j, ctr+` -a "$PWD/daemon/sock" image pull --plain-http --all-platforms %[1]s >/dev/null`)
			}},
		{name: "containerd, unpacked", needs: ctrNeeds, root: true, version: []string{"--version"}, start: startContainerd(daemon, ctr), setting: "the same, unpacked into overlayfs",
			script: func(j job) string {
				if j.all {
					return ""
				}
				return together(j, ctr+` -a "$PWD/daemon/sock" image pull --plain-http `+amd64+` %[1]s >/dev/null`)
			}},
		{name: "docker pull, docker save", needs: []string{"dockerd", "docker"}, root: true, version: []string{"--version"}, start: startDocker,
			setting: "the daemon with `--max-concurrent-downloads=8 --storage-driver=overlay2`; it unpacks, and packs again",
			script: func(j job) string {
				if j.all {
					return ""
				}
				return together(j, `docker -H "unix://$PWD/daemon/sock" pull -q `+amd64+` %[1]s >/dev/null`) +
					`docker -H "unix://$PWD/daemon/sock" save -o out.tar ` + strings.Join(j.refs, " ") + "\n"
			}},
		{name: "aria2c", needs: []string{"aria2c"}, version: []string{"--version"}, setting: "it is given the list of blobs with their sums", script: func(j job) string {
			var b strings.Builder
			b.WriteString("mkdir -p blobs\ncat >list <<END\n")
			for _, u := range j.urls {
				sum := u[strings.LastIndexByte(u, ':')+1:]
				fmt.Fprintf(&b, "%s\n  out=%s\n  checksum=sha-256=%s\n", u, sum, sum)
			}
			b.WriteString("END\naria2c --no-conf -q -i list -d blobs -j 8 -x 16 -s 16 -k 1M --file-allocation=none -c -V\n")
			return b.String()
		}},
		{name: "ideal: curl -Z, sha256sum", needs: []string{"curl"}, version: []string{"--version"}, setting: "it is given the list of blobs", script: func(j job) string {
			var b strings.Builder
			b.WriteString("mkdir -p blobs\ncurl -s -f -Z --parallel-max 8 ")
			for _, u := range j.urls {
				fmt.Fprintf(&b, "-o blobs/%s %s ", u[strings.LastIndexByte(u, ':')+1:], u)
			}
			b.WriteString("\n(cd blobs && ls | xargs -P 2 -n 8 sha256sum >/dev/null)\n")
			return b.String()
		}},
		{name: "ideal: a Go loop", needs: []string{os.Args[0]}, setting: "8 at once, whole blobs, hashed as they are written; it is given the list of blobs", script: func(j job) string {
			return "mkdir -p blobs\n" + selfPath() + " -loop blobs " + strings.Join(j.urls, " ") + "\n"
		}},
	}
}

func selfPath() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

func startContainerd(daemon, ctr string) string {
	return fmt.Sprintf(`cat >daemon/config.toml <<END
version = 4
root = "$PWD/daemon/root"
state = "$PWD/daemon/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[plugins."io.containerd.server.v1.grpc"]
  address = "$PWD/daemon/sock"
[plugins."io.containerd.server.v1.ttrpc"]
  address = "$PWD/daemon/sock.ttrpc"
[plugins."io.containerd.transfer.v1.local"]
  max_concurrent_downloads = 16
  concurrent_layer_fetch_buffer = 4194304
  max_concurrent_unpacks = 2
END
%s -c daemon/config.toml -l warn >daemon/log 2>&1 &
echo $! >daemon/pid
until %s -a "$PWD/daemon/sock" version >/dev/null 2>&1; do kill -0 "$(cat daemon/pid)"; sleep 0.05; done
`, daemon, ctr)
}

const startDocker = `echo '{}' >daemon/config.json
dockerd --config-file "$PWD/daemon/config.json" --data-root "$PWD/daemon/docker" --exec-root "$PWD/daemon/exec" --pidfile "$PWD/daemon/docker.pid" -H "unix://$PWD/daemon/sock" \
  --bridge=none --iptables=false --ip6tables=false --storage-driver=overlay2 --max-concurrent-downloads=8 -l warn >daemon/log 2>&1 &
echo $! >daemon/pid
until docker -H "unix://$PWD/daemon/sock" version >/dev/null 2>&1; do kill -0 "$(cat daemon/pid)"; sleep 0.05; done
`

// stopDaemon ends a daemon and takes away what it has mounted; with -9 as a crash does.
const stopDaemon = `[ -e daemon/pid ] || exit 0
p=$(cat daemon/pid)
kids=$(cat /proc/$p/task/*/children 2>/dev/null || true)
kill $1 $p $kids 2>/dev/null || true
while kill -0 $p 2>/dev/null; do sleep 0.05; done
for k in $kids; do while kill -0 $k 2>/dev/null; do sleep 0.05; done; done
awk -v d="$PWD/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
rm -f daemon/pid daemon/docker.pid
`

// present are the tools that can take part here.
func present(program, containerd, only string) []tool {
	var out []tool
	for _, t := range competitors(program, containerd) {
		missing := t.root && os.Getuid() != 0
		for _, p := range t.needs {
			if _, err := exec.LookPath(p); err != nil {
				missing = true
			}
		}
		switch {
		case missing:
			fmt.Fprintf(os.Stderr, "%s can't take part here: it needs %s\n", t.name, strings.Join(t.needs, " and "))
		case strings.Contains(t.name, only) || strings.HasPrefix(t.name, "drayage"):
			out = append(out, t)
		}
	}
	return out
}

// shown is a tool's script for the page.
func (t tool) shown() string {
	script := t.script(job{refs: []string{"IMAGE"}, urls: []string{"http://REGISTRY/v2/…/blobs/sha256:…"}})
	for _, p := range append([]string{selfPath()}, t.needs...) {
		script = strings.ReplaceAll(script, p+" ", filepath.Base(p)+" ")
	}
	script = strings.ReplaceAll(script, "pids=\n", "")
	return strings.ReplaceAll(strings.TrimSpace(script), "\n", "; ")
}
