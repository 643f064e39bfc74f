//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode"

	"drayage/engine/registry/registrytest"
)

// evil is text that takes over a terminal, forges lines, breaks tables, turns text round and
// hides it.
const evil = "x\x1b[2J\u009b31m\u202egpj.\u2066\u200b\nforged: line\ttab\a"

// clean checks that what was printed has nothing but visible characters, ends of lines and tabs.
func clean(t *testing.T, what string, o outcome) {
	t.Helper()
	for _, text := range []string{o.out, o.err} {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "forged") {
				t.Errorf("%s: a line is forged:\n%s", what, text)
			}
			for i, r := range strings.TrimSuffix(line, "\n") {
				if !unicode.IsPrint(r) && r != '\t' || r == unicode.ReplacementChar {
					t.Errorf("%s: %U at %d of %q", what, r, i, line)
					break
				}
			}
		}
	}
}

func TestWhatRegistriesSayHasNoControlOfTheTerminal(t *testing.T) {
	w := newWorld(t)
	config := w.reg.PushBlob("team/evil", []byte(`{"architecture":"`+runtime.GOARCH+`","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	layer := w.reg.PushBlob("team/evil", []byte("layer"))
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config":      map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 73 + len(runtime.GOARCH)},
		"layers":      []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar" + evil, "digest": layer, "size": 5}},
		"annotations": map[string]any{"note" + evil: evil},
	})
	if err != nil {
		t.Fatal(err)
	}
	evilImage := w.reg.PushManifest("team/evil", "1", "application/vnd.oci.image.manifest.v1+json", manifest)
	img := smallImage()
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
		"manifests": []any{
			map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": registrytestDigest(w, img), "size": len(img.Manifest), "platform": map[string]any{"os": "linux", "architecture": runtime.GOARCH}},
			map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": registrytestDigest(w, img), "size": len(img.Manifest), "platform": map[string]any{"os": "lin" + evil, "architecture": evil}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	evilIndex := w.reg.PushManifest("team/app", "index", "application/vnd.oci.image.index.v1+json", index)
	w.each(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		rw.Header().Set("X-Evil", "a\u009b2J\u202eb\x9b2J\tc")
		next.ServeHTTP(rw, r)
	})
	for _, args := range [][]string{
		{"inspect", evilImage}, {"inspect", "--json", evilImage}, {"inspect", evilIndex}, {"inspect", "--json", evilIndex},
		{"pull", "-D", "-D", evilImage}, {"pull", "-n", "-D", "-D", evilIndex}, {"pull", "-p", "json", "-D", "-D", evilImage},
		{"pull", evilIndex, "--platform", "plan9/mips"}, {"doctor", evilImage},
	} {
		clean(t, strings.Join(args, " "), w.run(args...))
	}
	o := w.run("inspect", evilImage)
	w.want(o, 0, `\x1b[2J`, `\u202e`, `\nforged`)
	var got struct {
		Blobs []struct{ MediaType string }
	}
	if err := json.Unmarshal([]byte(w.run("inspect", "--json", evilImage).out), &got); err != nil || len(got.Blobs) != 2 || !strings.HasSuffix(got.Blobs[1].MediaType, evil) {
		t.Errorf("the JSON has another text: %q, %v", got, err)
	}
	if raw := w.run("inspect", "--raw", evilImage).out; raw != string(manifest) {
		t.Errorf("--raw is not what the registry has: %q", raw)
	}
}

// registrytestDigest is what an image's manifest is called in the registry.
func registrytestDigest(w *world, img registrytest.Image) string {
	name := w.reg.Push("team/app", "tmp", img)
	o := w.run("inspect", "--json", name)
	var got struct{ Digest string }
	if err := json.Unmarshal([]byte(o.out), &got); err != nil {
		w.t.Fatal(err, o)
	}
	return got.Digest
}

func TestErrorsAndNamesHaveNoControlOfTheTerminal(t *testing.T) {
	w := newWorld(t)
	answer := evil
	server := serveHTTP(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusForbidden)
		raw, _ := json.Marshal(answer)
		fmt.Fprintf(rw, `{"errors":[{"code":%s,"message":%s,"detail":%s}]}`, raw, raw, raw)
	})
	host := strings.TrimPrefix(server.URL, "http://")
	w.helper("evil", `printf 'x\033[2J\302\233\nforged: line' >&2; exit 1`)
	w.write(".docker/config.json", `{"credHelpers":{"helped.example":"evil"}}`)
	file := filepath.Join(w.home, evil+".tar")
	archive := w.run("pull", "-o", file, w.image)
	clean(t, "a file's name", archive)
	w.want(archive, 0)
	list := w.write("list"+evil, evil+"\n")
	for _, args := range [][]string{
		{"pull", host + "/team/app:1"}, {"pull", "-p", "json", host + "/team/app:1"}, {"pull", "--mirror", "docker.io=http://a" + evil, "alpine"},
		{"pull", "helped.example/x"}, {"pull", evil}, {"inspect", evil}, {evil}, {"pull", "--" + evil}, {"pull", "-f", list}, {"pull", "-f", w.home + "/none" + evil},
		{"pull", "-o", file, w.image}, {"pull", "-d", w.home + "/dir" + evil, w.image}, {"store", "import", file}, {"store", "import", list}, {"store", "ls", "--store", w.home + "/" + evil},
		{"store", "info", "--store", w.home}, {"store", "rm", evil}, {"warm", "check", "-c", list}, {"serve", "--listen", evil}, {"login", evil}, {"logout", evil}, {"__complete", "pull", evil},
		{"store", "export", evil}, {"bench", evil}, {"chaos", "--listen", evil, evil}, {"doctor", host + "/team/app:1"},
	} {
		clean(t, fmt.Sprintf("%q", args), w.run(args...))
	}
	w.set("HTTPS_PROXY=http://user:pass@proxy.invalid:1/" + evil)
	clean(t, "a proxy", w.run("pull", "helped.example/x", "--give-up-after", "1s"))
	w.write("warm.yaml", fmt.Sprintf("groups:\n- name: %q\n  every: 1h\n  images: [%q]\n", evil, w.image))
	for _, args := range [][]string{{"warm", "check", "-c", "warm.yaml"}, {"warm", "--once", "-c", "warm.yaml"}, {"warm", "status", "-c", "warm.yaml"}} {
		clean(t, "a group's name", w.run(args...))
	}
}

// What a program that images are loaded into says is its own, and shown like all else.
func TestALoaderHasNoControlOfTheTerminal(t *testing.T) {
	w := newWorld(t)
	path := w.write("bin/docker", "#!/bin/sh\n[ $1 = version ] && { echo 27.0; exit; }\ncat >/dev/null\nprintf 'Loaded\\033[2J\\302\\233 image: it\\n\\342\\200\\256more'\n")
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	o := w.run("pull", "-l", w.image)
	clean(t, "docker load", o)
	w.want(o, 0, "Loaded", "more")
}

func TestWhatHooksWriteIsBoundedAndPrintable(t *testing.T) {
	w := newWorld(t)
	w.set("REGISTRY_TOKEN=hush-hush-token", "MARKER=kept")
	flood := w.write("flood.sh", `printf 'begin \033[2J\302\233 '"$REGISTRY_TOKEN"'\nforged: line\n'
head -c 20000000 /dev/zero | tr '\0' a
printf '\nthe end '"$REGISTRY_TOKEN"; exit 3`)
	w.write("warm.yaml", fmt.Sprintf("groups:\n- name: g\n  every: 1h\n  images: [%q]\nhooks:\n  round: [{command: [sh, %q]}]\n", w.image, flood))
	o := w.run("warm", "--once", "-c", "warm.yaml")
	clean(t, "a hook", o)
	w.want(o, 0, "begin", "the end", "[hidden]", "!hush-hush")
	if len(o.err) > 4<<10 {
		t.Errorf("a hook has %d bytes said", len(o.err))
	}
	// One that leaves a process which holds its output is done all the same, and well.
	stay := w.write("stay.sh", "sleep 300 & echo $! > child; exit 0\n")
	w.write("warm.yaml", fmt.Sprintf("groups:\n- name: g\n  every: 1h\n  images: [%q]\nhooks:\n  round: [{command: [sh, %q]}]\n", w.image, stay))
	w.want(w.run("warm", "--once", "-c", "warm.yaml"), 0, "!the hook for")
	if _, err := os.Stat(filepath.Join(w.home, "child")); err != nil {
		t.Error(err)
	}
	pid, _ := os.ReadFile(filepath.Join(w.home, "child"))
	w.endProcess(bytes.TrimSpace(pid))
}
