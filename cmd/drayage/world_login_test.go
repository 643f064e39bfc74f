//go:build unix

package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
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
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// auths is a credential file with entries of host or host/path, then user:password.
func auths(pairs ...string) string {
	var entries []string
	for i := 0; i < len(pairs); i += 2 {
		entries = append(entries, fmt.Sprintf("%q:{\"auth\":%q}", pairs[i], b64(pairs[i+1])))
	}
	return `{"auths":{` + strings.Join(entries, ",") + `}}`
}

const dockerFile = ".docker/config.json"

func TestWorldCredentials(t *testing.T) {
	t.Run("A1", func(t *testing.T) {
		for file, text := range map[string]string{
			"both":              `HOST/team-a ann:a HOST/team-b bob:b`,
			"and the host":      `HOST/team-a ann:a HOST root:no HOST/team-b bob:b`,
			"longer and longer": `HOST/team no:no HOST/team-a ann:a HOST/team-a/other no:no HOST/team-b/deep/app bob:b`,
			"with a scheme":     `https://HOST/team-a ann:a https://HOST/team-b/ bob:b`,
		} {
			w := newWorld(t)
			users := map[string]string{"team-a/app": "ann:a", "team-b/deep/app": "bob:b"}
			for repo := range users {
				w.reg.Push(repo, "1", smallImage())
			}
			w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				for repo, user := range users {
					if strings.HasPrefix(r.URL.Path, "/v2/"+repo+"/") && r.Header.Get("Authorization") == "Basic "+b64(user) {
						next.ServeHTTP(rw, r)
						return
					}
				}
				rw.Header().Set("WWW-Authenticate", `Basic realm="r"`)
				rw.WriteHeader(401)
			})
			w.write(dockerFile, auths(strings.Fields(strings.ReplaceAll(text, "HOST", w.reg.Host()))...))
			t.Log(file)
			w.want(w.pull(w.reg.Host()+"/team-a/app:1", w.reg.Host()+"/team-b/deep/app:1"), 0)
			w.want(w.pull(w.reg.Host()+"/team-c/app:1"), 3)
		}
		// An entry without content is none, and one for another path never counts.
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		w.write(dockerFile, strings.Replace(auths(w.reg.Host(), "ann:a"), `{"auths":{`, `{"auths":{"`+w.reg.Host()+`/team":{},"`+w.reg.Host()+`/team/app":{"auth":""},"`+w.reg.Host()+`/team/application":{"auth":"`+b64("no:no")+`"},`, 1))
		w.want(w.pull(w.image), 0)
		// Podman's files have paths, too, and are asked when Docker's has none.
		w.write(dockerFile, `{}`)
		w.write("run/containers/auth.json", auths(w.reg.Host()+"/team", "ann:a"))
		w.want(w.pull(w.image), 0)
	})

	t.Run("A2", func(t *testing.T) {
		w := newWorld(t)
		w.reg.Push("org/x", "1", smallImage())
		w.reg.RequireBasic("ann", "a")
		w.write(dockerFile, auths(w.reg.Host(), "ann:a"))
		for _, name := range []string{"registry-1.docker.io/org/x:1", "index.docker.io/org/x:1", "docker.io/org/x:1", "org/x:1"} {
			o := w.pull("--mirror", "docker.io=http://"+w.reg.Host(), name)
			w.want(o, 0, "org/x:1", "!registry-1.docker.io/org", "!index.docker.io")
		}
	})

	t.Run("A3", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireToken("ann", "a")
		w.helper("store", `echo '{"Username":"no","Secret":"no"}'`)
		w.write(dockerFile, `{"credsStore":"store"}`)
		w.set("DOCKER_AUTH_CONFIG=" + auths(w.reg.Host(), "ann:a"))
		w.want(w.pull(w.image), 0)
		if calls := w.calls(); calls != "" {
			t.Errorf("the helper was asked: %s", calls)
		}
		// Broken: a warning, and on with the file.
		w.write(dockerFile, auths(w.reg.Host(), "ann:a"))
		for _, broken := range []string{`{"auths":{"x":{"auth":"c2VjcmV0OnNlY3JldA=="`, "s3cr3t-not-json", `["s3cr3t"]`} {
			w.set("DOCKER_AUTH_CONFIG=" + broken)
			w.want(w.pull("-D", "-D", w.image), 0, "DOCKER_AUTH_CONFIG", "warning", "!s3cr3t", "!c2VjcmV0")
		}
	})

	t.Run("a helper that leaves a child behind", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "s3cr3t")
		w.helper("store", `sleep 5 & echo '{"Username":"ann","Secret":"s3cr3t"}'`)
		w.write(dockerFile, `{"credsStore":"store"}`)
		w.want(w.pull("-DD", w.image), 0, "!s3cr3t", "!warning")
	})

	t.Run("a helper that fails with its answer", func(t *testing.T) {
		for _, script := range []string{`echo '{"Username":"ann","Secret":"s3cr3t"}'; exit 1`, `echo 'kept: {"Secret":"s3cr3t"' >&2; exit 1`} {
			w := newWorld(t)
			w.reg.RequireBasic("ann", "s3cr3t")
			w.helper("store", script)
			w.write(dockerFile, `{"credsStore":"store"}`)
			w.want(w.pull("-DD", w.image), 3, "!s3cr3t", "docker-credential-store")
			w.helper("store", `[ $verb = store ] && echo "no room for $server s3cr3t" >&2; exit 1`)
			w.want(w.runIn("s3cr3t", "login", "-u", "ann", "--password-stdin", w.reg.Host()), 7, "!s3cr3t", "docker-credential-store")
		}
	})

	t.Run("A4", func(t *testing.T) {
		for _, folder := range []string{dockerFile, "run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json/x/y"} {
			w := newWorld(t)
			if err := os.MkdirAll(filepath.Join(w.home, folder), 0o755); err != nil {
				t.Fatal(err)
			}
			w.want(w.pull(w.image), 0)
		}
	})

	t.Run("A5", func(t *testing.T) {
		w := newWorld(t)
		w.unset("HOME")
		w.unset("XDG_RUNTIME_DIR")
		w.want(w.pull(w.image), 0)
		w.reg.RequireBasic("ann", "a")
		w.set("REGISTRY_AUTH_FILE=" + w.write("auth.json", auths(w.reg.Host(), "ann:a")))
		w.want(w.pull(w.image), 0)
		w.set("HOME=/dev/null")
		w.want(w.pull(w.image), 0)
		w.set("HOME=/nonexistent")
		w.want(w.pull(w.image), 0)
	})

	t.Run("A6", func(t *testing.T) {
		w := newWorld(t)
		w.helper("locked", "sleep 1000 & sleep 1000")
		w.write(dockerFile, `{"credsStore":"locked"}`)
		w.reg.RequireToken("", "") // anybody gets a token
		o := w.pull("--give-up-after", "1s", w.image)
		w.want(o, 0, "docker-credential-locked")
		w.reg.RequireToken("ann", "a")
		w.want(w.pull("--give-up-after", "1s", w.image), 3, "docker-credential-locked", "no response within 1s")
	})

	t.Run("A7", func(t *testing.T) {
		for _, script := range []string{
			`echo "pass not initialized: exit status 1: Error: password store is empty."; exit 1`,
			`echo "no credentials server URL"; exit 1`,
			`echo "Cannot autolaunch D-Bus without X11 \$DISPLAY" >&2; exit 1`,
			`exit 1`, `printf 'red \033[31m\nsecond line'; exit 2`, `echo nonsense`, `kill -9 $$`,
		} {
			w := newWorld(t)
			w.helper("bad", script)
			w.write(dockerFile, `{"credsStore":"bad"}`)
			w.want(w.pull(w.image), 0, "!\x1b")
			w.reg.RequireBasic("ann", "a")
			w.want(w.pull(w.image), 3, "docker-credential-bad", "!\x1b")
			w.write("run/containers/auth.json", auths(w.reg.Host(), "ann:a"))
			w.want(w.pull(w.image), 0)
		}
		// One that isn't installed, or has the name of another program.
		for _, name := range []string{"missing", "../../bin/sh", "a b"} {
			w := newWorld(t)
			w.write(dockerFile, fmt.Sprintf(`{"credsStore":%q}`, name))
			w.want(w.pull(w.image), 0)
		}
	})

	t.Run("A8", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		w.helper("desktop", `echo '{"Username":"no","Secret":"no"}'`)
		w.write(dockerFile, `{"credsStore":"desktop","credHelpers":{"`+w.reg.Host()+`":""},`+auths(w.reg.Host(), "ann:a")[1:])
		w.want(w.pull(w.image), 0)
		if calls := w.calls(); calls != "" {
			t.Errorf("the helper was run: %s", calls)
		}
	})

	t.Run("A9", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		w.helper("slow", `echo '{"Username":"ann","Secret":"a"}'`)
		var images []string
		for i := range 20 {
			images = append(images, w.reg.Push(fmt.Sprintf("r%d/app", i), "1", smallImage()))
		}
		for _, config := range []string{`{"credsStore":"slow"}`, `{"credHelpers":{"` + w.reg.Host() + `":"slow"}}`} {
			w.write(dockerFile, config)
			before := strings.Count(w.calls(), "\n")
			w.want(w.pull(images...), 0)
			if calls := strings.Count(w.calls(), "\n") - before; calls != 1 {
				t.Errorf("%d calls of the helper for one registry", calls)
			}
		}
	})

	t.Run("A10", func(t *testing.T) {
		for name, link := range map[string]string{"absolute": "/HOME/dotfiles/docker.json", "relative": "../dotfiles/docker.json", "dangling": "../elsewhere/new.json"} {
			w := newWorld(t)
			w.reg.RequireBasic("ann", "a")
			target := filepath.Join(w.home, "dotfiles/docker.json")
			w.write("dotfiles/docker.json", `{"HttpHeaders":{"X":"y"}}`)
			if err := os.Chmod(target, 0o640); err != nil {
				t.Fatal(err)
			}
			link = strings.Replace(link, "/HOME", w.home, 1)
			if err := os.MkdirAll(filepath.Join(w.home, ".docker"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(link, filepath.Join(w.home, dockerFile)); err != nil {
				t.Fatal(err)
			}
			w.want(w.runIn("a\n", "login", "-u", "ann", "--password-stdin", w.reg.Host()), 0)
			if got, err := os.Readlink(filepath.Join(w.home, dockerFile)); err != nil || got != link {
				t.Errorf("%s: the link became %q, %v", name, got, err)
			}
			if name == "dangling" {
				target = filepath.Join(w.home, "elsewhere/new.json")
			}
			info, err := os.Stat(target)
			if err != nil {
				t.Fatal(err)
			}
			if mode := info.Mode().Perm(); name != "dangling" && mode != 0o640 || name == "dangling" && mode != 0o600 {
				t.Errorf("%s: its mode became %o", name, mode)
			}
			w.want(w.pull(w.image), 0)
			w.want(w.run("logout", w.reg.Host()), 0)
			if raw, err := os.ReadFile(target); err != nil || strings.Contains(string(raw), w.reg.Host()) || name != "dangling" && !strings.Contains(string(raw), "HttpHeaders") {
				t.Errorf("%s: after logout it has %s, %v", name, raw, err)
			}
		}
		if os.Getuid() == 0 {
			w := newWorld(t)
			path := w.write(dockerFile, `{}`)
			if err := os.Chown(path, 1234, 1234); err != nil {
				t.Fatal(err)
			}
			w.want(w.runIn("a\n", "login", "-u", "ann", "--password-stdin", w.reg.Host()), 0)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 1234 {
				t.Errorf("the owner became %d", owner)
			}
		}
	})

	t.Run("A10 a folder behind a link", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		target := w.write("dotfiles/docker.json", `{}`)
		w.write("dotfiles/deep/docker/keep", "")
		for name, to := range map[string]string{".docker": "dotfiles/deep/docker", "dotfiles/deep/docker/config.json": "../../docker.json"} {
			if err := os.Symlink(to, filepath.Join(w.home, name)); err != nil {
				t.Fatal(err)
			}
		}
		w.want(w.runIn("a\n", "login", "-u", "ann", "--password-stdin", w.reg.Host()), 0)
		if raw, err := os.ReadFile(target); err != nil || !strings.Contains(string(raw), w.reg.Host()) {
			t.Errorf("the link's target has %s, %v", raw, err)
		}
		w.want(w.pull(w.image), 0)
	})

	t.Run("A10 a file that is mounted", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		path, outside := w.write(dockerFile, ""), w.write("outside.json", `{"HttpHeaders":{"X":"`+strings.Repeat("y", 1000)+`"}}`)
		if out, err := exec.CommandContext(t.Context(), "mount", "--bind", outside, path).CombinedOutput(); err != nil {
			t.Skipf("mounts are not allowed here: %s", out)
		}
		t.Cleanup(func() { _ = exec.CommandContext(context.Background(), "umount", path).Run() })
		w.want(w.runIn("a\n", "login", "-u", "ann", "--password-stdin", w.reg.Host()), 0)
		w.want(w.pull(w.image), 0)
		w.want(w.run("logout", w.reg.Host()), 0, "logged out")
		if raw, err := os.ReadFile(outside); err != nil || strings.Contains(string(raw), w.reg.Host()) || !strings.Contains(string(raw), "HttpHeaders") {
			t.Errorf("after logout it has %s, %v", raw, err)
		}
	})

	t.Run("A11 helpers that fail", func(t *testing.T) {
		w := newWorld(t)
		host := w.reg.Host()
		w.helper("bad", `[ $verb = get ] && echo '{"Username":"ann","Secret":"s3cr3t"}' || { echo "can't erase s3cr3t `+b64("ann:s3cr3t")+`"; exit 1; }`)
		w.write(dockerFile, `{"credsStore":"bad"}`)
		w.want(w.run("logout", host), 7, "docker-credential-bad", "can't erase", "!s3cr3t", "!"+b64("ann:s3cr3t"))
		// One that isn't installed keeps nothing; what the file has goes all the same.
		w.write(dockerFile, `{"credsStore":"gone",`+auths(host, "a:b")[1:])
		w.want(w.run("logout", host), 0, "logged out of "+host, "docker-credential-gone", "warning")
		if raw, _ := os.ReadFile(filepath.Join(w.home, dockerFile)); strings.Contains(string(raw), host) {
			t.Errorf("after logout the file has %s", raw)
		}
		w.want(w.run("logout", host), 7, "docker-credential-gone")
	})

	t.Run("A11 the oldest form", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		host := w.reg.Host()
		old := fmt.Sprintf(`{%q:{"auth":%q,"email":"x"},"other.example":{"auth":%q},"HttpHeaders":{"X":"y"}}`, "https://"+host+"/v1/", b64("ann:a"), b64("c:d"))
		path := w.write(dockerFile, old)
		w.want(w.pull(w.image), 0)
		w.want(w.run("logout", host), 0, "logged out")
		w.want(w.pull(w.image), 3)
		raw, _ := os.ReadFile(path)
		if strings.Contains(string(raw), host) || !strings.Contains(string(raw), "other.example") || !strings.Contains(string(raw), "HttpHeaders") {
			t.Errorf("after logout the file has %s", raw)
		}
		// A login for another registry leaves those that are there good.
		w.write(dockerFile, old)
		second := newWorld(t)
		second.reg.RequireBasic("bob", "b")
		w.want(w.runIn("b", "login", "-u", "bob", "--password-stdin", second.reg.Host()), 0)
		w.want(w.pull(w.image, second.image), 0)
	})

	t.Run("A11 no place for logins", func(t *testing.T) {
		w := newWorld(t)
		if err := os.MkdirAll(filepath.Join(w.home, dockerFile), 0o755); err != nil {
			t.Fatal(err)
		}
		w.want(w.run("logout", w.reg.Host()), 0, "not logged in")
		w.want(w.runIn("b", "login", "-u", "bob", "--password-stdin", w.reg.Host()), 7, "config.json")
		w.set("HOME=/dev/null")
		w.want(w.run("logout", w.reg.Host()), 0, "not logged in")
		w.unset("HOME")
		w.want(w.run("logout", w.reg.Host()), 0, "not logged in")
	})

	t.Run("A11", func(t *testing.T) {
		w := newWorld(t)
		w.helper("pass", `case $verb in
get) test -e "$HOME/has-$(echo "$server" | tr / _)" && echo '{"Username":"a","Secret":"b"}' || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm "$HOME/has-$(echo "$server" | tr / _)" 2>/dev/null || { echo "not in the password store"; exit 1; } ;;
esac`)
		w.write(dockerFile, `{"credsStore":"pass"}`)
		w.write("has-https:__index.docker.io_v1_", "")
		w.want(w.run("logout"), 0, "logged out of docker.io")
		w.want(w.run("logout"), 0, "not logged in to docker.io")
		w.want(w.run("logout", w.reg.Host()), 0, "not logged in")
		// In the file every spelling goes that a lookup would find.
		host := w.reg.Host()
		w.write(dockerFile, auths("https://"+host, "a:b", host, "a:b", "http://"+host+"/v2/", "a:b", "other.example", "c:d"))
		w.want(w.run("logout", host), 0, "logged out")
		if raw, _ := os.ReadFile(filepath.Join(w.home, dockerFile)); strings.Contains(string(raw), host) || !strings.Contains(string(raw), "other.example") {
			t.Errorf("after logout the file has %s", raw)
		}
	})

	t.Run("A16", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		entry := fmt.Sprintf(`{%q:{"auth":%q,"email":"x@example"}}`, w.reg.Host(), b64("ann:a"))
		for _, text := range []string{entry, fmt.Sprintf(`{"https://%s/v1/":{"username":"ann","password":"a"}}`, w.reg.Host()), b64(entry), "auth = " + b64("ann:a") + "\nemail = x@example\n"} {
			w.want(w.pull("-a", "file:"+w.write("dockercfg", text), w.image), 0)
		}
		w.want(w.pull("-a", "file:"+w.write("dockercfg", `{"auths":{}}`), w.image), 2, "no credentials found")
		w.want(w.pull("-a", "file:"+w.write("dockercfg", auths("other.example", "a:b")), w.image), 3, "no entry for "+w.reg.Host())
	})

	t.Run("A19", func(t *testing.T) {
		w := newWorld(t)
		w.reg.RequireBasic("ann", "a")
		for _, secret := range []string{"ann:a\x00", "ann:a\x00\x00\x00"} {
			w.write(dockerFile, auths(w.reg.Host(), secret))
			w.want(w.pull(w.image), 0)
			w.want(w.pull("-a", b64(secret), w.image), 0)
		}
	})

	t.Run("malformed auth", func(t *testing.T) {
		w := newWorld(t)
		for _, auth := range []string{"s3cr3t!!!", b64("s3cr3t-without-colon"), "s3cr3t\x1b[31m", b64("ann:s3c\nr3t")} {
			w.write(dockerFile, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, w.reg.Host(), auth))
			w.reg.RequireToken("", "")
			w.want(w.pull("-D", "-D", w.image), 0, "!s3cr3t", "!"+auth, "!\x1b")
			w.reg.RequireBasic("ann", "a")
			w.want(w.pull("-p", "json", "--report", filepath.Join(w.home, "report"), w.image), 3, "!s3cr3t", "!"+auth, "config.json")
			if raw, _ := os.ReadFile(filepath.Join(w.home, "report")); strings.Contains(string(raw), "s3cr3t") {
				t.Error("it is in the report")
			}
		}
	})

	t.Run("what a helper or token server echoes", func(t *testing.T) {
		w := newWorld(t)
		const secret = "hunter2/+%&="
		w.write(dockerFile, auths(w.reg.Host(), "ann:"+secret))
		w.reg.RequireToken("ann", "other")
		w.reg.Break("/auth/token", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) {
			rw.WriteHeader(403)
			fmt.Fprintf(rw, "{\"errors\":[{\"message\":\"wrong: %s \\u001b[31m %s %s\"}]}", secret, b64("ann:"+secret), "hunter2%2F%2B%25%26%3D")
		}))
		w.want(w.pull("-D", "-D", w.image), 3, "no token", "!hunter2", "!"+b64("ann:"+secret), "!\x1b")
		w.want(w.pull("-p", "json", w.image), 3, "!hunter2", "!"+b64("ann:"+secret))
	})
}

func TestWorldGivenCredentials(t *testing.T) {
	w := newWorld(t)
	var got log
	w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		got.add("%s", r.Header.Get("Authorization"))
		next.ServeHTTP(rw, r)
	})
	w.reg.RequireBasic("ann", "a")
	store := auths(w.reg.Host(), "ann:a", "other.example", "bob:s3cr3t")
	utf16 := func(s string) string {
		out := "\xff\xfe"
		for _, c := range []byte(s) {
			out += string([]byte{c, 0})
		}
		return out
	}
	for name, text := range map[string]string{"plain": store, "mark": "\ufeff" + store, "UTF-16": utf16(store), "spaces": "\r\n  " + store + "\r\n"} {
		w.want(w.pull("-a", "file:"+w.write("creds", text), w.image), 0)
		if name != "UTF-16" { // an environment has no zero bytes
			w.set("CREDS=" + text)
			w.want(w.pull("-a", "env:CREDS", w.image), 0)
			w.want(w.pull("-a", text, w.image), 0)
		}
	}
	for _, text := range []string{
		"# my logins\n" + store, "// s3cr3t\n" + store, "<html>user:s3cr3t</html>", "auths:\n  other.example:\n    auth: s3cr3t\n", "auths: {x: {auth: s3cr3t}}",
		"[" + store + "]", "---\nuser: s3cr3t", `"user:s3cr3t"`, store[:len(store)-1], "user:s3cr3t\nsecond:line", b64("no colon s3cr3t"), "\xff\xfe\x00", "'" + store + "'",
	} {
		for _, given := range []string{"file:" + w.write("creds", text), "env:CREDS", text} {
			if strings.ContainsRune(text, 0) && !strings.HasPrefix(given, "file:") {
				continue
			}
			if !strings.ContainsRune(text, 0) {
				w.set("CREDS=" + text)
			}
			w.want(w.pull("-a", given, w.image), 2, "!s3cr3t", "!"+b64("bob:s3cr3t"))
		}
	}
	for _, sent := range got.all() {
		if sent != "" && sent != "Basic "+b64("ann:a") {
			t.Errorf("the registry got %q", sent)
		}
	}
}

func TestWorldTokens(t *testing.T) {
	t.Run("A12", func(t *testing.T) {
		for _, part := range []string{"/manifests/", "/blobs/"} {
			w := newWorld(t)
			other := newWorld(t)
			var got log
			other.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				got.add("%s %s", r.URL.Path, r.Header.Get("Authorization"))
				next.ServeHTTP(rw, r)
			})
			other.reg.RequireToken("", "")
			w.reg.RequireBasic("ann", "s3cr3t")
			w.write(dockerFile, auths(w.reg.Host(), "ann:s3cr3t"))
			w.reg.Break(part, registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Header.Get("Authorization") == "" {
					next.ServeHTTP(rw, r)
					return
				}
				http.Redirect(rw, r, "http://"+other.reg.Host()+r.URL.Path, http.StatusTemporaryRedirect)
			}))
			w.want(w.pull(w.image), 0)
			if got.count("Basic") > 0 {
				t.Errorf("the other registry got credentials: %v", got.all())
			}
			if n := got.count("/auth/token"); n != 1 {
				t.Errorf("%s: %d tokens for one repository: %v", part, n, got.all())
			}
		}
	})

	t.Run("A12 tokens that run out", func(t *testing.T) {
		w, other := newWorld(t), newWorld(t)
		var tokens atomic.Int32
		other.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			switch {
			case r.URL.Path == "/token":
				fmt.Fprintf(rw, `{"token":"t%d"}`, tokens.Add(1))
			case r.Header.Get("Authorization") != fmt.Sprintf("Bearer t%d", tokens.Load()):
				rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, other.reg.Host()))
				rw.WriteHeader(401)
			default:
				next.ServeHTTP(rw, r)
			}
		})
		w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == "/v2/" {
				next.ServeHTTP(rw, r)
				return
			}
			http.Redirect(rw, r, "http://"+other.reg.Host()+r.URL.Path, http.StatusTemporaryRedirect)
		})
		d := w.serve("--pull-through", w.reg.Host(), "--fresh", "1ms", "--give-up-after", "2s")
		for range 3 {
			url := "http://" + d.host + "/v2/" + w.reg.Host() + "/team/app/manifests/1"
			if status, stale := fetchStale(t, url); status != 200 || stale {
				t.Errorf("%d, stale %v", status, stale)
			}
			tokens.Add(1) // the last one is good no longer
		}
	})

	t.Run("A17 a token server that leads to HTTPS", func(t *testing.T) {
		w := newWorld(t)
		secure := registrytest.NewTLS()
		t.Cleanup(secure.Close)
		secure.Break("", registrytest.Always, between(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) { fmt.Fprint(rw, `{"token":"good"}`) }))
		ca := w.write("ca.pem", pemOf(t, secure))
		w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			switch {
			case r.URL.Path == "/token":
				http.Redirect(rw, r, "https://"+secure.Host()+"/token", http.StatusMovedPermanently)
			case r.Header.Get("Authorization") != "Bearer good":
				rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, w.reg.Host()))
				rw.WriteHeader(401)
			default:
				next.ServeHTTP(rw, r)
			}
		})
		w.want(w.pull("--ca-cert", ca, w.image), 0)
	})

	t.Run("A13", func(t *testing.T) {
		w := newWorld(t)
		w.reg.Push("hubcache/library/app", "1", smallImage())
		w.reg.RequireToken("", "")
		var scopes log
		w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == "/auth/token" {
				scopes.add("%v", r.URL.Query()["scope"])
				if s := r.URL.Query()["scope"]; len(s) != 1 || s[0] != "repository:hubcache/library/app:pull" {
					rw.WriteHeader(400)
					return
				}
			}
			next.ServeHTTP(rw, r)
		})
		for _, mirror := range []string{"/v2/hubcache", "/v2/hubcache/"} {
			w.want(w.pull("--mirror", "docker.io=http://"+w.reg.Host()+mirror, "app:1"), 0, "!warning")
		}
		// Without a scope in the challenge the hint has the path that is asked.
		w.reg.ChallengeWith(func(string) []string { return []string{`Bearer realm="` + w.reg.Realm() + `",service="s"`} })
		w.want(w.pull("--mirror", "docker.io=http://"+w.reg.Host()+"/v2/hubcache", "app:1"), 0, "!warning")
	})

	for id, scope := range map[string]string{
		"A14": "*", "A14 pull,push": "repository:team/app:pull,push", "A14 several": "repository:team/app:pull repository:team/base:pull",
		"A18": "repository(plugin):team/app:pull", "A14 another order": "repository:team/app:push,pull",
	} {
		t.Run(id, func(t *testing.T) {
			w := newWorld(t)
			var asked log
			w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				switch {
				case r.URL.Path == "/token":
					asked.add("token %s", strings.Join(r.URL.Query()["scope"], " "))
					fmt.Fprintf(rw, `{"token":"good","expires_in":300}`)
				case r.Header.Get("Authorization") == "Bearer good":
					next.ServeHTTP(rw, r)
				default:
					asked.add("401")
					rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="s",scope=%q`, w.reg.Host(), scope))
					rw.WriteHeader(401)
				}
			})
			w.want(w.pull("-j", "1", w.image), 0)
			if n := asked.count("401"); n != 1 {
				t.Errorf("%d times 401 for one repository", n)
			}
			if n := asked.count("token " + scope); n != 1 {
				t.Errorf("tokens: %v, want one for %q", asked.all(), scope)
			}
		})
	}

	t.Run("A15", func(t *testing.T) {
		// TLS ends before the registry, which names its realm as it sees itself.
		w := newWorld(t)
		tls := registrytest.NewTLS()
		t.Cleanup(tls.Close)
		tls.Push("team/app", "1", smallImage())
		ca := w.write("ca.pem", pemOf(t, tls))
		image := tls.Host() + "/team/app:1"
		w.write(dockerFile, auths(tls.Host(), "ann:s3cr3t"))
		tls.RequireToken("ann", "s3cr3t")
		realm := func(url string) {
			tls.ChallengeWith(func(repo string) []string {
				return []string{fmt.Sprintf(`Bearer realm=%q,service="s",scope="repository:%s:pull"`, url, repo)}
			})
		}
		realm("http://127.0.0.1/auth/token")
		w.want(w.pull("--ca-cert", ca, image), 0)
		realm("http://" + tls.Host() + "/auth/token")
		w.want(w.pull("--ca-cert", ca, image), 0)
		// Another host: no password in the clear, and the line says whom to tell.
		var sent log
		clear := serveHTTP(t, func(rw http.ResponseWriter, r *http.Request) {
			sent.add("%v", r.Header["Authorization"])
			fmt.Fprint(rw, `{"token":"x"}`)
		})
		elsewhere := strings.Replace(clear.URL, "127.0.0.1", "localhost", 1)
		realm(elsewhere + "/auth/token")
		w.want(w.pull("--ca-cert", ca, image), 3, elsewhere, tls.Host(), "https realm", "!s3cr3t")
		if sent.count("Basic") > 0 {
			t.Errorf("the token server got %v", sent.all())
		}
		// Tokens that anybody gets need no refusal.
		w.want(w.pull("--ca-cert", ca, "-A", image), 3, "!https realm")
		if sent.count("Basic") > 0 || len(sent.all()) == 0 {
			t.Errorf("the token server got %v", sent.all())
		}
	})

	t.Run("A15 a realm that speaks plain HTTP alone", func(t *testing.T) {
		for _, hangsUp := range []bool{false, true} {
			w := newWorld(t)
			tls := registrytest.NewTLS()
			t.Cleanup(tls.Close)
			tls.Push("team/app", "1", smallImage())
			tls.RequireToken("ann", "s3cr3t")
			var sent log
			clear := serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { sent.add("%v", r.Header["Authorization"]) })
			realm := clear.URL
			if hangsUp {
				realm = "http://" + serveBoth(t, closedPort(t), func(c net.Conn) {
					_, _ = c.Read(make([]byte, 4096))
					_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
				})
			}
			tls.ChallengeWith(func(string) []string { return []string{fmt.Sprintf(`Bearer realm=%q,service="s"`, realm+"/token")} })
			w.write(dockerFile, auths(tls.Host(), "ann:s3cr3t"))
			o := w.pull("--ca-cert", w.write("ca.pem", pemOf(t, tls)), "--give-up-after", "20s", tls.Host()+"/team/app:1")
			w.want(o, 3, realm+"/token", tls.Host(), "https realm", "!s3cr3t")
			if o.took > 10*time.Second {
				t.Errorf("it took %v", o.took)
			}
			if sent.count("Basic") > 0 {
				t.Errorf("the token server got %v", sent.all())
			}
		}
	})

	t.Run("A17", func(t *testing.T) {
		// One port that speaks both, and sends plain HTTP to HTTPS of the same name.
		w := newWorld(t)
		tls := registrytest.NewTLS()
		t.Cleanup(tls.Close)
		tls.RequireToken("ann", "s3cr3t")
		tls.Push("team/app", "1", smallImage())
		var plain log
		front := serveHTTP(t, func(rw http.ResponseWriter, r *http.Request) {
			plain.add("%s %v", r.URL.Path, r.Header["Authorization"])
			http.Redirect(rw, r, "https://"+tls.Host()+r.URL.RequestURI(), http.StatusMovedPermanently)
		})
		host := strings.TrimPrefix(front.URL, "http://")
		w.write(dockerFile, auths(host, "ann:s3cr3t"))
		ca := w.write("ca.pem", pemOf(t, tls))
		for _, flags := range [][]string{{"--ca-cert", ca}, {"--ca-cert", ca, "-I"}} {
			tls.Forget()
			w.want(w.pull(append(flags, host+"/team/app:1")...), 0)
			if n := tls.Count("/auth/token"); n != 1 {
				t.Errorf("%d tokens for one repository", n)
			}
		}
		// What is known of the port that leads there goes for doctor as well.
		w.want(w.run("doctor", "--ca-cert", ca, host+"/team/app:1"), 0, "bearer, tokens from "+tls.Host(), "!answers 30", "!(30")
		if len(plain.all()) > 8 || plain.count("Basic")+plain.count("Bearer") > 0 {
			t.Errorf("plain HTTP was asked %v", plain.all())
		}
	})
}

// Whoever serves or keeps a store warm sees new logins without being started anew.
func TestWorldLoginWhileServing(t *testing.T) {
	w := newWorld(t)
	w.reg.RequireBasic("ann", "a")
	d := w.serve("--pull-through", w.reg.Host(), "--give-up-after", "2s")
	url := "http://" + d.host + "/v2/" + w.reg.Host() + "/team/app/manifests/1"
	if status := statusAt(t, url); status == http.StatusOK {
		t.Fatal("it was given without a login")
	}
	w.write(dockerFile, auths(w.reg.Host(), "ann:a"))
	until := time.Now().Add(time.Minute)
	for status := 0; status != http.StatusOK; status = statusAt(t, url) {
		if time.Now().After(until) {
			t.Fatalf("a minute after the login: %d", status)
		}
		time.Sleep(100 * time.Millisecond) // between looks; nothing depends on it
	}
}
