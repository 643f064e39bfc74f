package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"drayage/engine/registry/registrytest"

	"golang.org/x/crypto/bcrypt"
)

// users writes a password file in which everybody's password is pw.
func (w *world) users(names ...string) string {
	w.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	if err != nil {
		w.t.Fatal(err)
	}
	text := ""
	for _, name := range names {
		text += name + ":" + string(hash) + "\n"
	}
	return w.write("users", text)
}

func byName(user string) []string {
	return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":pw"))}
}

func TestServePrivateIsCheckedFirst(t *testing.T) {
	w := newWorld(t)
	w.want(w.run("serve", "--private", "ghcr.io=ann"), 2, "--htpasswd")
	users := w.users("ann")
	for _, bad := range []string{"", "ghcr.io", "ghcr.io=", "ghcr.io=ann,,bob", "nothost/team=ann", "ghcr.io/Team=ann"} {
		w.want(w.run("serve", "--htpasswd", users, "--private", bad), 2, "--private")
	}
}

// What is private is told of nowhere: not on the page, nor of transfers, groups, lists.
func TestServePrivate(t *testing.T) {
	w := newWorld(t)
	reg := w.reg.Host()
	secret := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	w.reg.Push("secret/app", "1", secret)
	w.want(w.run("pull", reg+"/team/app:1", reg+"/secret/app:1"), 0)
	other := registrytest.Build("linux/amd64", registrytest.Random(2, 1<<20))
	w.reg.Push("secret/other", "1", other)
	config := w.write("warm.yaml", `
groups:
  - name: both
    every: 1h
    images: ["`+reg+`/team/app:1", "`+reg+`/secret/app:1", "`+reg+`/secret/absent:1"]
  - name: hidden
    every: 1h
    images: ["`+reg+`/secret/app:1", "`+reg+`/secret/absent:1"]
`)
	w.run("warm", "-c", config, "--once")
	d := w.serve("--htpasswd", w.users("ann", "bob"), "--private", reg+"/secret=ann", "--pull-through", reg, "--default-registry", reg)
	get := func(user, path string) (int, string) {
		t.Helper()
		return fetch(t, http.DefaultClient, "http://"+d.host+path, byName(user)...)
	}
	for _, c := range []struct {
		user, path string
		status     int
		has, not   string
	}{
		{"ann", "/", 200, "secret/app:1", "zzz"},
		{"bob", "/", 200, "team/app:1", "secret"},
		{"ann", "/v2/_catalog", 200, "secret/app", "zzz"},
		{"bob", "/v2/_catalog", 200, "team/app", "secret"},
		{"ann", "/v2/secret/app/manifests/1", 200, "config", "zzz"},
		{"bob", "/v2/secret/app/manifests/1", 404, "MANIFEST_UNKNOWN", "secret"},
		{"bob", "/v2/team/app/blobs/" + secret.Layers[0].Digest.String(), 404, "BLOB_UNKNOWN", "secret"},
		{"bob", "/v2/team/app/manifests/" + secret.Descriptor.Digest.String(), 404, "MANIFEST_UNKNOWN", "secret"},
		{"bob", "/v2/secret/app/tags/list", 404, "NAME_UNKNOWN", "secret"},
		{"ann", "/warm/both", 503, "secret/absent:1", "zzz"},
		{"bob", "/warm/both", 200, "complete and fresh", "secret"},
		{"ann", "/warm/hidden", 503, "secret", "zzz"},
		{"bob", "/warm/hidden", 404, "no such group", "secret"},
	} {
		status, body := get(c.user, c.path)
		if status != c.status || !strings.Contains(body, c.has) || strings.Contains(body, c.not) {
			t.Errorf("%s as %s: %d %s", c.path, c.user, status, body)
		}
	}

	if _, counts := get("ann", "/metrics"); !strings.Contains(counts, `drayage_serve_refused_total{why="private"} 4`) {
		t.Errorf("what was kept from bob is not counted: %s", counts)
	}

	// A transfer is told to those who may see its image.
	release := make(chan struct{})
	w.reg.Break("/secret/other/blobs/"+other.Layers[0].Digest.String(), 1000, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet { // HEAD comes first
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		next.ServeHTTP(rw, r)
	}))
	get("ann", "/v2/secret/other/manifests/1")
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.host+"/v2/secret/other/blobs/"+other.Layers[0].Digest.String(), nil)
			if err != nil {
				return
			}
			req.SetBasicAuth("ann", "pw")
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		}
	}()
	first := func(user string, until string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.host+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(user, "pw")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if strings.Contains(lines.Text(), until) {
				return lines.Text()
			}
		}
		return ""
	}
	if got := first("ann", other.Layers[0].Digest.String()); !strings.Contains(got, "secret/other@") {
		t.Errorf("events for ann: %s", got)
	}
	if got := first("bob", "data:"); got != "data: []" {
		t.Errorf("events for bob: %s", got)
	}
	if _, body := get("bob", "/"); strings.Contains(body, "secret") || strings.Contains(body, other.Layers[0].Digest.String()[:19]) {
		t.Errorf("the page for bob: %s", body)
	}
	close(release)
	cancel()
	<-gone
}
