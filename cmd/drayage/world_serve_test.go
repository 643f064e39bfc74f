package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

func TestWorldHostsToml(t *testing.T) {
	t.Run("V1", func(t *testing.T) {
		for _, path := range []string{"/v2", "/v2/", "", "/"} {
			w := newWorld(t)
			w.reg.Push("library/app", "1", smallImage())
			dir := filepath.Join(w.home, "certs.d")
			for name, text := range map[string]string{
				"docker.io/hosts.toml":            "server = \"http://127.0.0.1:1/v2\"\n[host.\"http://" + w.reg.Host() + path + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
				"registry-1.docker.io/hosts.toml": "server = \"http://" + w.reg.Host() + path + "\"\n",
			} {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				w.write("certs.d/"+name, text)
				w.reg.Forget()
				w.want(w.pull("--hosts-dir", dir, "app:1"), 0)
				if n := w.reg.Count("/v2/v2"); n > 0 {
					t.Errorf("%q: %d requests with /v2 twice", path, n)
				}
			}
		}
		// A path before /v2, and one of its own.
		w := newWorld(t)
		w.reg.Push("hub/library/app", "1", smallImage())
		dir := filepath.Join(w.home, "certs.d")
		w.write("certs.d/docker.io/hosts.toml", "[host.\"http://"+w.reg.Host()+"/v2/hub\"]\n  override_path = true\n")
		w.want(w.pull("--hosts-dir", dir, "app:1"), 0)
	})

	t.Run("V2 and V3", func(t *testing.T) {
		tls := registrytest.NewTLS()
		t.Cleanup(tls.Close)
		tls.Push("team/app", "1", smallImage())
		pem := pemOf(t, tls)
		image := tls.Host() + "/team/app:1"
		host, port, _ := strings.Cut(tls.Host(), ":")
		for name, files := range map[string]map[string]string{
			"ca":                 {tls.Host() + "/hosts.toml": "ca = \"own.pem\"\n", tls.Host() + "/own.pem": pem},
			"ca list":            {tls.Host() + "/hosts.toml": "ca = [\"own.pem\"]\n", tls.Host() + "/own.pem": pem},
			"skip_verify":        {tls.Host() + "/hosts.toml": "skip_verify = true\n"},
			"port spelt":         {host + "_" + port + "_/hosts.toml": "skip_verify = true\n"},
			"default":            {"_default/hosts.toml": "skip_verify = true\n"},
			"certificates alone": {tls.Host() + "/ca.crt": pem},
			"empty hosts.toml":   {tls.Host() + "/hosts.toml": "\n# nothing\n", tls.Host() + "/ca.crt": pem},
			"not the default's":  {tls.Host() + "/ca.crt": pem, "_default/hosts.toml": "server = \"http://127.0.0.1:1\"\n"},
			"windows' editor":    {tls.Host() + "/hosts.toml": "\ufeffskip_verify = true\r\n"},
		} {
			w := newWorld(t)
			for f, text := range files {
				w.write("certs.d/"+f, text)
			}
			t.Log(name)
			dir := filepath.Join(w.home, "certs.d")
			w.want(w.pull("--hosts-dir", dir, image), 0)
			w.want(w.run("inspect", "--hosts-dir", dir, image), 0)
		}
		w := newWorld(t)
		w.want(w.pull(image), 1, "--ca-cert")
		// A header at the top is for the registry itself.
		w.write("certs.d/"+w.reg.Host()+"/hosts.toml", "[header]\n  X-Key = \"abc\"\n")
		w.want(w.pull("--hosts-dir", filepath.Join(w.home, "certs.d"), w.image), 0)
		if r := w.reg.Requests(); len(r) == 0 || r[0].Header.Get("X-Key") != "abc" {
			t.Errorf("the header was not sent: %v", r)
		}
	})

	t.Run("V5", func(t *testing.T) {
		w := newWorld(t)
		for text, line := range map[string]string{
			"[host.\"http://fd00::10:30020\"]\n":                                                     ":1:",
			"# mirrors\n\n[host.\"http://fd00::10:30020\"]\n  capabilities = [\"pull\"]\n":           ":3:",
			"server = \"https://fd00::10:30020\"\n":                                                  ":1:",
			"server = \"https://docker.io\"\n[host.\"http://good\"]\n[host.\"fd00::10:30020/v2\"]\n": ":3:",
		} {
			w.write("certs.d/docker.io/hosts.toml", text)
			w.want(w.pull("--hosts-dir", filepath.Join(w.home, "certs.d"), "app:1"), 2, "docker.io/hosts.toml"+line, "brackets: [fd00::10]:30020")
		}
		w.want(w.pull("--mirror", "docker.io=http://fd00::10:30020", "app:1"), 2, "brackets: [fd00::10]:30020")
		w.want(w.pull("--mirror", "docker.io=mirror.example", "app:1"), 2, "https://")
	})
}

func TestWorldServe(t *testing.T) {
	t.Run("names", func(t *testing.T) {
		w, other := newWorld(t), newWorld(t)
		other.reg.Push("team/app", "1", plainImage("linux/amd64", 9))
		w.reg.Push("lone/app", "1", smallImage())
		w.reg.Push("library/both", "1", smallImage())
		w.want(w.run("pull", w.image, w.reg.Host()+"/lone/app:1"), 0)
		w.want(w.run("pull", "--platform", "linux/amd64", other.reg.Host()+"/team/app:1"), 0)
		w.want(w.run("pull", "--mirror", "docker.io=http://"+w.reg.Host(), "both:1"), 0)
		d := w.serve()
		url := "http://" + d.host
		for path, want := range map[string]int{
			"/v2/lone/app/manifests/1":                             200,
			"/v2/lone/app/tags/list":                               200,
			"/v2/both/manifests/1":                                 200,
			"/v2/library/both/manifests/1":                         200,
			"/v2/" + w.reg.Host() + "/team/app/manifests/1":        200,
			"/v2/" + w.reg.Host() + "/team/app/tags/list":          200,
			"/v2/team/app/manifests/1?ns=" + w.reg.Host():          200,
			"/v2/docker.io/library/both/manifests/1":               200,
			"/v2/index.docker.io/library/both/manifests/1":         200,
			"/v2/library/both/manifests/1?ns=registry-1.docker.io": 200,
			"/v2/team/app/manifests/1":                             404,
			"/v2/none/app/manifests/1":                             404,
			"/" + w.reg.Host() + "/v2/":                            200,
			"/" + w.reg.Host() + "/v2/team/app/manifests/1":        200,
			"/docker.io/v2/library/both/tags/list":                 200,
			"/other.example/v2/team/app/manifests/1":               404,
			"/some/path/v2/team/app/manifests/1":                   404,
		} {
			if status := statusAt(t, url+path); status != want {
				t.Errorf("%s: %d, want %d", path, status, want)
			}
		}
		if status, body := fetch(t, http.DefaultClient, url+"/v2/team/app/manifests/1"); status != 404 || !strings.Contains(body, w.reg.Host()+"/team/app") || !strings.Contains(body, other.reg.Host()+"/team/app") {
			t.Errorf("candidates are not listed: %d %s", status, body)
		}
	})

	t.Run("V6", func(t *testing.T) {
		w := newWorld(t)
		for _, repo := range []string{"stefan/manifests/podinfo", "a/blobs/b", "a/tags/list", "manifests", "x/referrers/y/tags", "blobs/blobs"} {
			name := w.reg.Push(repo, "1", smallImage())
			w.want(w.run("pull", name), 0)
			d := w.serve()
			status := statusAt(t, "http://"+d.host+"/v2/"+w.reg.Host()+"/"+repo+"/tags/list")
			if status != 200 {
				t.Errorf("tags of %s: %d", repo, status)
			}
			for _, kind := range []string{"manifests/1", "blobs/" + smallImage().Descriptor.Digest.String()} {
				if status := statusAt(t, "http://"+d.host+"/v2/"+w.reg.Host()+"/"+repo+"/"+kind); status != 200 {
					t.Errorf("%s of %s: %d", kind, repo, status)
				}
			}
			d.stop(9)
		}
	})

	t.Run("V7", func(t *testing.T) {
		w := newWorld(t)
		w.reg.HaveReferrers()
		img := smallImage()
		for _, tag := range []string{"2", "3", "4"} {
			w.reg.Push("team/app", tag, img)
		}
		w.reg.Push("team/app", "", registrytest.Artifact("application/signature", &img.Descriptor, []byte("x")))
		w.want(w.run("pull", w.image), 0) // without its signature
		d := w.serve("--pull-through", w.reg.Host(), "--fresh", "1ms", "--give-up-after", "1s")
		base := "http://" + d.host + "/v2/" + w.reg.Host() + "/team/app"
		status, body := fetch(t, http.DefaultClient, base+"/tags/list")
		if status != 200 || !strings.Contains(body, `["1","2","3","4"]`) {
			t.Errorf("%d %s", status, body)
		}
		status, body = fetch(t, http.DefaultClient, base+"/tags/list?n=2&last=1")
		if status != 200 || !strings.Contains(body, `["2","3"]`) {
			t.Errorf("a page: %d %s", status, body)
		}
		status, body = fetch(t, http.DefaultClient, base+"/referrers/"+img.Descriptor.Digest.String())
		if status != 200 || !strings.Contains(body, "application/signature") {
			t.Errorf("signatures: %d %s", status, body)
		}
		status, body = fetch(t, http.DefaultClient, base+"/referrers/"+img.Descriptor.Digest.String()+"?artifactType=application/other")
		if status != 200 || strings.Contains(body, "application/signature") {
			t.Errorf("filtered: %d %s", status, body)
		}
		if status := statusAt(t, "http://"+d.host+"/v2/"+w.reg.Host()+"/none/tags/list"); status != 404 {
			t.Errorf("what upstream doesn't have: %d", status)
		}
		w.reg.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/tags/list", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Warning"), "299") {
			t.Errorf("without upstream: %d, %q", resp.StatusCode, resp.Header.Get("Warning"))
		}
	})

	t.Run("V9", func(t *testing.T) {
		w := newWorld(t)
		blob := registrytest.Random(7, 3<<20)
		d := w.reg.PushBlob("slow", blob)
		release := make(chan struct{})
		var waiting atomic.Int32
		w.reg.Break("/blobs/"+d.String(), registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead {
				next.ServeHTTP(rw, r)
				return
			}
			waiting.Add(1)
			rw.Header().Set("Content-Length", fmt.Sprint(len(blob)))
			_, _ = rw.Write(blob[:1<<20])
			_ = http.NewResponseController(rw).Flush()
			select {
			case <-release:
				_, _ = rw.Write(blob[1<<20:])
			case <-r.Context().Done():
			}
		}))
		p := w.serve("--pull-through", w.reg.Host(), "--per-host", "1")
		url := "http://" + p.host + "/v2/" + w.reg.Host() + "/slow/blobs/" + d.String()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ask := func(header string) *http.Response {
			t.Helper()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Range", header)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", header, err)
			}
			return resp
		}
		total := fmt.Sprintf("bytes */%d", len(blob))
		for _, header := range []string{fmt.Sprintf("bytes=%d-", len(blob)), fmt.Sprintf("bytes=%d-%d", len(blob)+5, len(blob)+9), "bytes=5-2", "bytes=99999999999-", "bytes=x-y"} {
			resp := ask(header)
			resp.Body.Close()
			if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable || resp.Header.Get("Content-Range") != total {
				t.Errorf("%s: %d, Content-Range %q", header, resp.StatusCode, resp.Header.Get("Content-Range"))
			}
		}
		resp := ask("bytes=10-19")
		got := make([]byte, 10)
		if _, err := resp.Body.Read(got); resp.StatusCode != 206 || err != nil && err.Error() != "EOF" || !bytes.Equal(got, blob[10:20]) {
			t.Errorf("what has arrived: %d, %v", resp.StatusCode, err)
		}
		resp.Body.Close()
		close(release)
		for header, status := range map[string]int{"bytes=-0": 416, "items=0-5": 200, "bytes=0-99999999999999999999": 206, "bytes=-99999999999999999999": 206, "bytes=99999999999999999999-": 416} {
			resp := ask(header)
			resp.Body.Close()
			if resp.StatusCode != status || status == 416 && resp.Header.Get("Content-Range") != total {
				t.Errorf("%s: %d, Content-Range %q", header, resp.StatusCode, resp.Header.Get("Content-Range"))
			}
		}
		for _, header := range []string{"bytes=0-9,20-29", "bytes=-5"} {
			resp := ask(header)
			var b bytes.Buffer
			_, err := b.ReadFrom(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 206 {
				t.Errorf("%s: %d, %v", header, resp.StatusCode, err)
			}
			if header == "bytes=-5" && !bytes.Equal(b.Bytes(), blob[len(blob)-5:]) {
				t.Errorf("%s: %q", header, b.Bytes())
			}
		}
	})

	t.Run("what a disk has changed is not given", func(t *testing.T) {
		for _, spoil := range []func(path string, raw []byte) error{
			func(path string, raw []byte) error { raw[5] ^= 1; return os.WriteFile(path, raw, 0o644) },
			func(path string, raw []byte) error { return os.Truncate(path, int64(len(raw)/2)) },
		} {
			for _, through := range []bool{false, true} {
				w := newWorld(t)
				w.want(w.run("pull", w.image), 0)
				var flags []string
				if through {
					flags = []string{"--pull-through", w.reg.Host()}
				}
				d := w.serve(flags...)
				layer := smallImage().Layers[0].Digest
				url := "http://" + d.host + "/v2/" + w.reg.Host() + "/team/app/blobs/" + layer.String()
				if status, body := fetch(t, http.DefaultClient, url); status != 200 || digest.FromBytes([]byte(body)) != layer {
					t.Fatalf("%d", status)
				}
				path := filepath.Join(w.home, "store", "blobs", "sha256", layer.Encoded())
				raw, err := os.ReadFile(path)
				if err == nil {
					err = errors.Join(os.Chmod(path, 0o644), spoil(path, raw))
				}
				if err != nil {
					t.Fatal(err)
				}
				want := http.StatusNotFound
				if through {
					want = http.StatusOK
				}
				if status, body := fetch(t, http.DefaultClient, url); status != want || status == 200 && digest.FromBytes([]byte(body)) != layer {
					t.Errorf("pull-through %v: %d, want %d", through, status, want)
				}
			}
		}
	})

	t.Run("an access log that nobody reads", func(t *testing.T) {
		w := newWorld(t)
		w.want(w.run("pull", w.image), 0)
		r, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr, serving, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "drayage", "serve", "--listen", "127.0.0.1:0", "--access-log", "-")
		cmd.Env, cmd.Stdout, cmd.Stderr = w.env, out, serving
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stderr).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		at := strings.TrimSpace(line[strings.Index(line, "http://"):])
		for range 1000 { // lines of a hundred bytes and more: the pipe has 64 KiB
			if status := statusAt(t, at+"/v2/"+w.reg.Host()+"/team/app/manifests/1"); status != http.StatusOK {
				t.Fatalf("%d", status)
			}
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		for _, f := range []*os.File{r, out, stderr, serving} {
			f.Close()
		}
	})

	t.Run("one broken tag is not a registry that is down", func(t *testing.T) {
		w := newWorld(t)
		w.reg.Push("team/broken", "1", smallImage())
		w.reg.Break("/team/broken/manifests/", registrytest.Always, between(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
			rw.Header().Set("Content-Type", "application/json")
			fmt.Fprint(rw, `{"no":"manifest"}`)
		}))
		d := w.serve("--pull-through", w.reg.Host(), "--fresh", "1ms", "--give-up-after", "2s")
		at := "http://" + d.host + "/v2/" + w.reg.Host() + "/team/"
		statusAt(t, at+"app/manifests/1")
		if status := statusAt(t, at+"broken/manifests/1"); status != http.StatusBadGateway {
			t.Errorf("what is no manifest: %d", status)
		}
		if status, stale := fetchStale(t, at+"app/manifests/1"); status != 200 || stale {
			t.Errorf("%d, stale %v", status, stale)
		}
	})

	t.Run("upstream that hangs delays one answer", func(t *testing.T) {
		w := newWorld(t)
		w.want(w.run("pull", w.image), 0)
		hang := make(chan struct{})
		t.Cleanup(func() { close(hang) })
		var asked atomic.Int32
		w.each(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
			asked.Add(1)
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		})
		d := w.serve("--pull-through", w.reg.Host(), "--fresh", "1ms", "--give-up-after", "2s", "--answer-timeout", "1s")
		url := "http://" + d.host + "/v2/" + w.reg.Host() + "/team/app/manifests/1"
		if status := statusAt(t, url); status != 200 {
			t.Fatalf("%d", status)
		}
		before := asked.Load()
		for range 20 {
			if status := statusAt(t, url); status != 200 {
				t.Errorf("%d", status)
			}
		}
		if n := asked.Load() - before; n > 1 {
			t.Errorf("%d of 20 answers waited for upstream", n)
		}
	})

	t.Run("a port in use", func(t *testing.T) {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		w := newWorld(t)
		for _, args := range [][]string{
			{"serve", "--listen", l.Addr().String()}, {"serve", "--listen", "127.0.0.1:0", "--pprof", l.Addr().String()},
			{"chaos", "--upstream", w.reg.Host(), "--listen", l.Addr().String()},
		} {
			w.want(w.run(args...), 7, "choose another", "!run the same command again")
		}
	})
}
