package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"drayage/blobstore/blobstoretest"
	"drayage/cmd/drayage/internal/process"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary be the program, for scripts that run it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"drayage": func() {
		s := process.Standard()
		if text := os.Getenv(deadlyPoint); text != "" {
			p, err := blobstoretest.ParsePoint(text)
			if err != nil {
				panic(err)
			}
			s.Disk, s.Checkpoint = blobstoretest.NewDeadly(p), 5*time.Millisecond
		}
		status := runProcess(s)
		if file := os.Getenv(peakFile); file != "" {
			raw, err := os.ReadFile("/proc/self/status")
			if err := errors.Join(err, os.WriteFile(file, raw, 0o600)); err != nil {
				panic(err)
			}
		}
		os.Exit(status)
	}})
}

// peakFile is the environment variable that names a file for what Linux says of the program under
// test at its end.
const peakFile = "DRAYAGE_TEST_PEAK"

// deadlyPoint is the environment variable that names the call at which the
// program under test dies.
const deadlyPoint = "DRAYAGE_TEST_DIE"

// TestScripts runs the scripts of testdata/script. Each has a registry of its
// own at $REG with the images of stock, and these commands besides testscript's:
//
//	status N drayage ARG...        run, and want this exit status
//	oneline                        want one line of error from the last status
//	break PATH TIMES FAULT [ARG]   make requests whose path has PATH meet a fault
//	auth basic|token USER PASSWORD want credentials
//	requests N [PATH]              want so many requests since the last forget
//	forget                         empty the list of requests
//	members FILE OUT               list an archive's members, with their link targets, and its small files' content
//	envsubst IN OUT                copy a file with $REG filled in
//	archive FILE TEXT...           want a tar whose blobs match their names, and that has these texts in its small files
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			s := registrytest.New()
			env.Defer(s.Close)
			stock(s)
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { l.Close() })
			env.Values[serverKey{}] = s
			for k, v := range map[string]string{
				"REG": s.Host(), "HOME": env.WorkDir, "DRAYAGE_STORE": filepath.Join(env.WorkDir, "store"),
				"GOARCH": runtime.GOARCH, "DOCKER_CONFIG": filepath.Join(env.WorkDir, "docker"), "XDG_RUNTIME_DIR": filepath.Join(env.WorkDir, "run"),
				"NO_PROXY": "127.0.0.1", "UID": strconv.Itoa(os.Getuid()),
			} {
				env.Setenv(k, v)
			}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "linux":
				return runtime.GOOS == "linux", nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":   cmdStatus,
			"oneline":  cmdOneLine,
			"break":    cmdBreak,
			"auth":     cmdAuth,
			"requests": cmdRequests,
			"forget":   func(ts *testscript.TestScript, _ bool, _ []string) { server(ts).Forget() },
			"archive":  cmdArchive,
			"envsubst": cmdEnvsubst,
			"members":  cmdMembers,
		},
	})
}

type serverKey struct{}

func server(ts *testscript.TestScript) *registrytest.Server {
	return ts.Value(serverKey{}).(*registrytest.Server)
}

// stock fills a registry for the scripts.
func stock(s *registrytest.Server) {
	base := registrytest.Layer(1, 100_000)
	s.Push("team/app", "1", registrytest.Build("linux/"+runtime.GOARCH, base, registrytest.Layer(2, 20_000)))
	s.Push("team/app", "2", registrytest.Build("linux/"+runtime.GOARCH, base, registrytest.Layer(3, 20_000)))
	s.Push("old/app", "1", registrytest.BuildDocker("linux/"+runtime.GOARCH, base))
	s.PushIndex("multi", "1", ocispec.MediaTypeImageIndex,
		registrytest.Build("linux/amd64", registrytest.Layer(4, 1000)), registrytest.Build("linux/arm64/v8", registrytest.Layer(5, 1000)))
	s.PushManifest("bad", "json", "application/json", []byte("{"))
	s.PushManifest("bad", "type", "application/json", []byte(`{"mediaType":"application/x-new","layers":[]}`))
	s.PushManifest("bad", "huge", "application/json", []byte(strings.Repeat(" ", 64<<20)))
	s.PushManifest("bad", "digest", "application/json", []byte(`{"config":{"digest":"sha256:../../x","size":1},"layers":[]}`))
	lied := registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(6, 1000))
	s.Push("lies", "honest", lied)
	for tag, by := range map[string]int64{"more": 1, "less": -1} {
		size := lied.Layers[0].Size
		text := strings.Replace(string(lied.Manifest), fmt.Sprintf(`"size":%d`, size), fmt.Sprintf(`"size":%d`, size+by), 1)
		s.PushManifest("lies", tag, lied.Descriptor.MediaType, []byte(text))
	}
	stockOdd(s)
	zstd := registrytest.Build("linux/"+runtime.GOARCH, registrytest.Random(7, 1000))
	s.Push("zstd", "", zstd)
	s.PushManifest("zstd", "1", zstd.Descriptor.MediaType,
		[]byte(strings.Replace(string(zstd.Manifest), "tar+gzip", "tar+zstd", 1)))
	chart := registrytest.Build("linux/"+runtime.GOARCH, registrytest.Random(8, 100))
	s.Push("chart", "", chart)
	s.PushManifest("chart", "1", chart.Descriptor.MediaType,
		[]byte(strings.Replace(string(chart.Manifest), ocispec.MediaTypeImageConfig, "application/vnd.cncf.helm.config.v1+json", 1)))
}

// stockOdd adds what archives have to do something about.
func stockOdd(s *registrytest.Server) {
	base := registrytest.Layer(1, 100_000)
	here := "linux/" + runtime.GOARCH
	s.Push("modern", "1", registrytest.Build(here, base, registrytest.ZstdLayer(20, 50_000), registrytest.Unpacked(registrytest.Layer(21, 3000))))
	wrong := registrytest.Build(here, registrytest.ZstdLayer(22, 1000))
	s.Push("wrong", "", wrong)
	// A layer that isn't what the config says, though its digest is right.
	other := registrytest.ZstdLayer(23, 1000)
	s.PushBlob("wrong", other)
	s.PushManifest("wrong", "1", wrong.Descriptor.MediaType, []byte(strings.NewReplacer(
		wrong.Layers[0].Digest.String(), digest.FromBytes(other).String(), fmt.Sprintf(`"size":%d`, wrong.Layers[0].Size), fmt.Sprintf(`"size":%d`, len(other)),
	).Replace(string(wrong.Manifest))))
	for tag, signed := range map[string]bool{"plain": false, "signed": true} {
		raw, _ := registrytest.Schema1(runtime.GOARCH, signed, base, registrytest.Layer(24, 2000))
		for _, l := range [][]byte{base, registrytest.Layer(24, 2000), registrytest.EmptyLayer()} {
			s.PushBlob("schema1", l)
		}
		s.PushManifest("schema1", tag, "application/vnd.docker.distribution.manifest.v1+prettyjws", raw)
	}
	s.Push("large", "1", registrytest.Build(here, registrytest.Random(30, 7<<20)))
	s.Push("deep/er/than/one", "2", registrytest.Build(here, base))
	s.Push("latest", "latest", registrytest.Build(here, base))
	s.Push("library/base", "1", registrytest.BuildDocker(here, base))
	s.PushIndex("list", "1", registrytest.DockerList, registrytest.BuildDocker("linux/amd64", base), registrytest.BuildDocker("linux/arm64/v8", base))
	twice := registrytest.Layer(25, 5000)
	s.Push("twice", "1", registrytest.Build(here, twice, base, twice))
	s.Push("none", "1", registrytest.Build(here))
	platforms := []registrytest.Image{
		registrytest.Build("linux/amd64", base), registrytest.Build("linux/arm64/v8", base, registrytest.Layer(26, 3000)), registrytest.Build("linux/s390x", registrytest.Layer(27, 3000)),
	}
	attestation := registrytest.Build("unknown/unknown", registrytest.Random(28, 500))
	s.PushIndex("platforms", "1", ocispec.MediaTypeImageIndex, append(platforms, attestation)...)
	signed := registrytest.Build(here, base)
	s.Push("signed", "1", signed)
	sbom := registrytest.Artifact("application/spdx+json", &signed.Descriptor, []byte("a bill of materials"))
	s.Push("signed", "", sbom)
	s.Push("signed", "", registrytest.Artifact("application/signature", &sbom.Descriptor, []byte("its signature")))
	s.Push("signed", "", registrytest.Artifact("application/other", &signed.Descriptor, []byte("another")))
	s.Push("signed", "", registrytest.Artifact("application/third", &signed.Descriptor, []byte("a third")))
	s.Push("signed", "sha256-"+signed.Descriptor.Digest.Encoded()+".sig", registrytest.Artifact("", nil, []byte("cosign's")))
	// An index that is signed, and one signature in two repositories.
	s.PushIndex("signed-index", "1", ocispec.MediaTypeImageIndex, platforms[0], platforms[1])
	raw := registrytest.Index(ocispec.MediaTypeImageIndex, platforms[0].Descriptor, platforms[1].Descriptor)
	index := registrytest.Describe(ocispec.MediaTypeImageIndex, raw)
	s.Push("signed-index", "sha256-"+index.Digest.Encoded()+".sig", registrytest.Artifact("", nil, []byte("of an index")))
	s.Push("signed-index", "", registrytest.Artifact("application/signature", &index, []byte("by the API")))
	for _, repo := range []string{"one-of-two", "two-of-two"} {
		s.Push(repo, "1", signed)
		s.Push(repo, "sha256-"+signed.Descriptor.Digest.Encoded()+".sig", registrytest.Artifact("", nil, []byte("cosign's")))
	}
	// An artifact that shares a blob with an image.
	s.Push("sharing", "1", registrytest.Artifact("application/model", nil, registrytest.ZstdLayer(20, 50_000)))
	s.HaveReferrers()
}

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	status := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("exit status %d, want %s", status, args[0])
	}
}

func cmdOneLine(ts *testscript.TestScript, _ bool, _ []string) {
	n := 0
	for line := range strings.Lines(ts.ReadFile("stderr")) {
		if strings.HasPrefix(line, "drayage:") {
			n++
		} else if !strings.HasPrefix(line, "Try '") && !strings.HasPrefix(line, "pulled ") && !strings.HasPrefix(line, "retrying in") && !strings.HasPrefix(line, "warning: mirror ") {
			ts.Fatalf("an unexpected line: %s", line)
		}
	}
	if n != 1 {
		ts.Fatalf("%d lines of error, want one", n)
	}
}

func cmdBreak(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: break PATH TIMES FAULT [ARG]")
	}
	times, err := strconv.Atoi(args[1])
	ts.Check(err)
	arg := 0
	if len(args) > 3 {
		arg, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	var f chaostest.Fault
	switch args[2] {
	case "reset":
		f = chaostest.ResetAfter(int64(arg))
	case "flip":
		f = chaostest.Flip(int64(arg))
	case "status":
		f = chaostest.Status(arg, args[min(4, len(args)):]...)
	case "redirect":
		location, storage := server(ts).NewStorage()
		ts.Defer(storage.Close)
		f = chaostest.Redirect(location)
	default:
		ts.Fatalf("unknown fault %s", args[2])
	}
	server(ts).Break(args[0], times, f)
}

func cmdAuth(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: auth basic|token USER PASSWORD")
	}
	if args[0] == "basic" {
		server(ts).RequireBasic(args[1], args[2])
	} else {
		server(ts).RequireToken(args[1], args[2])
	}
}

func cmdRequests(ts *testscript.TestScript, _ bool, args []string) {
	part := ""
	if len(args) > 1 {
		part = args[1]
	}
	if got := server(ts).Count(part); strconv.Itoa(got) != args[0] {
		ts.Fatalf("%d requests, want %s: %v", got, args[0], server(ts).Requests())
	}
}

func cmdArchive(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	var small strings.Builder
	for members := tar.NewReader(f); ; {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		raw, err := io.ReadAll(members)
		ts.Check(err)
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && digest.FromBytes(raw).Encoded() != hex {
			ts.Fatalf("%s has the content of %s", h.Name, digest.FromBytes(raw))
		}
		if h.Size < 10_000 {
			small.Write(raw)
		}
	}
	for _, text := range args[1:] {
		if !strings.Contains(small.String(), text) {
			ts.Fatalf("%q is not in the archive: %s", text, small.String())
		}
	}
}

func cmdMembers(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	in, _, err := compress.NewReader(f)
	ts.Check(err)
	defer in.Close()
	var list, small strings.Builder
	for members := tar.NewReader(in); ; {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		fmt.Fprintf(&list, "%s %d %s\n", h.Name, h.Size, h.Linkname)
		if h.Size < 10_000 {
			raw, err := io.ReadAll(members)
			ts.Check(err)
			if utf8.Valid(raw) && !strings.ContainsRune(string(raw), 0) {
				fmt.Fprintf(&small, "=== %s\n%s\n", h.Name, raw)
			}
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(list.String()+small.String()), 0o644))
}

func cmdEnvsubst(ts *testscript.TestScript, _ bool, args []string) {
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o644))
}
