package reference_test

import (
	"errors"
	"strings"
	"testing"

	"drayage/engine/reference"
)

const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseFillsInDockersDefaults(t *testing.T) {
	for _, c := range []struct{ in, name, short, host, repoTag, wanted string }{
		{"alpine", "docker.io/library/alpine:latest", "alpine:latest", "registry-1.docker.io", "alpine:latest", "latest"},
		{"a/x:1", "docker.io/a/x:1", "a/x:1", "registry-1.docker.io", "a/x:1", "1"},
		{"docker.io/library/x:1", "docker.io/library/x:1", "x:1", "registry-1.docker.io", "x:1", "1"},
		{"index.docker.io/x", "docker.io/library/x:latest", "x:latest", "registry-1.docker.io", "x:latest", "latest"},
		{"127.0.0.1:5000/a/b/c/d:v1", "127.0.0.1:5000/a/b/c/d:v1", "127.0.0.1:5000/a/b/c/d:v1", "127.0.0.1:5000", "127.0.0.1:5000/a/b/c/d:v1", "v1"},
		{"[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest", "[::1]:5000", "[::1]:5000/x:latest", "latest"},
		{"localhost/x", "localhost/x:latest", "localhost/x:latest", "localhost", "localhost/x:latest", "latest"},
		{"ghcr.io/o/i@sha256:" + hex, "ghcr.io/o/i@sha256:" + hex, "ghcr.io/o/i@sha256:" + hex, "ghcr.io", "", "sha256:" + hex},
		{"ghcr.io/o/i:t@sha256:" + hex, "ghcr.io/o/i:t@sha256:" + hex, "ghcr.io/o/i:t@sha256:" + hex, "ghcr.io", "ghcr.io/o/i:t", "sha256:" + hex},
	} {
		img, err := reference.Parse(c.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", c.in, err)
			continue
		}
		for _, g := range []struct{ what, got, want string }{
			{"Name", img.Name(), c.name}, {"String", img.String(), c.short}, {"Host", img.Host(), c.host},
			{"RepoTag", img.RepoTag(), c.repoTag}, {"Wanted", img.Wanted(), c.wanted},
		} {
			if g.got != g.want {
				t.Errorf("Parse(%q).%s = %q, want %q", c.in, g.what, g.got, g.want)
			}
		}
	}
}

func TestParseRefusesWhatIsNoName(t *testing.T) {
	for _, in := range []string{
		"", ":", "a/UPPER", "a b", "x:", "x@sha256:../../x", "x@sha256:abcd", "x@md5:" + hex[:32], "../x", "/x",
		"x:t:t", "https://x/y", hex, "x@" + hex, "x:" + strings.Repeat("t", 129),
	} {
		if img, err := reference.Parse(in); !errors.Is(err, reference.ErrInvalid) {
			t.Errorf("Parse(%q) = %v, %v; want ErrInvalid", in, img, err)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("Parse(%q): message of more than one line: %q", in, err)
		}
	}
}

func TestWithoutRegistryNamesAsTheScriptDid(t *testing.T) {
	for in, want := range map[string]string{
		"reg.example.com/team/app:1":  "team/app:1",
		"reg.example.com:5000/app:1":  "app:1",
		"alpine":                      "alpine:latest",
		"localhost:5000/library/x:2":  "x:2",
		"reg.example.com/a/b/c/app:1": "a/b/c/app:1",
	} {
		img, err := reference.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := img.WithoutRegistry().RepoTag(); got != want {
			t.Errorf("%s without registry = %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"alpine", "a/b:c@sha256:" + hex, "[::1]:5000/x", "localhost/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		img, err := reference.Parse(s)
		if err != nil {
			return
		}
		again, err := reference.Parse(img.Name())
		if err != nil || again != img {
			t.Errorf("Parse(%q).Name() = %q, which parses to %v, %v", s, img.Name(), again, err)
		}
	})
}

func TestPorts(t *testing.T) {
	for port, ok := range map[string]bool{"1": true, "65535": true, "0080": true, "0": false, "000": false, "65536": false, "4294967376": false, "99999999999999999999": false} {
		for _, host := range []string{"registry.example", "127.0.0.1", "[::1]", "localhost"} {
			if _, err := reference.Parse(host + ":" + port + "/a/b:1"); (err == nil) != ok || err != nil && !errors.Is(err, reference.ErrInvalid) {
				t.Errorf("%s:%s: %v", host, port, err)
			}
		}
	}
}
