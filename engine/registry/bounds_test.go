package registry_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"drayage/engine/registry"
	"drayage/engine/registry/hosts"
	"drayage/engine/textfile"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The limits by the values that docs/limits.md gives: one less and the limit itself are taken,
// one more is refused.

// TestPagesOfTags: 10,000 of a list.
func TestPagesOfTags(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	const most = 10_000
	for _, pages := range []int{most - 1, most, most + 1} {
		host := answering(t, func(w http.ResponseWriter, r *http.Request) {
			page, _ := strconv.Atoi(r.URL.Query().Get("last"))
			if page++; page < pages {
				w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, page))
			}
			fmt.Fprintf(w, `{"tags":["v%d"]}`, page)
		})
		tags, err := client(t, registry.Options{}).Tags(t.Context(), parse(t, host+"/team/app"))
		if pages <= most && (err != nil || len(tags) != pages) || pages > most && (err == nil || !strings.Contains(err.Error(), "more than 10000 pages")) {
			t.Errorf("%d pages: %d tags, %v", pages, len(tags), err)
		}
	}
}

// TestBytesOfTags: 64 MiB of a list without pages, and of the names of all pages.
func TestBytesOfTags(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	const most = 64 << 20
	for _, size := range []int{most - 1, most, most + 1} {
		const begin, end = `{"tags":["a"]`, `}`
		body := []byte(begin + strings.Repeat(" ", size-len(begin)-len(end)) + end)
		host := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
		if tags, err := client(t, registry.Options{}).Tags(t.Context(), parse(t, host+"/team/app")); (err == nil) != (size <= most) || err != nil && !strings.Contains(err.Error(), "more than 64 MiB") {
			t.Errorf("a list of %d bytes: %d tags, %v", size, len(tags), err)
		}
		const length, perPage = 2 << 10, 2000 // of a name, and names
		host = answering(t, func(w http.ResponseWriter, r *http.Request) {
			from, _ := strconv.Atoi(r.URL.Query().Get("last"))
			var b bytes.Buffer
			for i := from; i < from+perPage && i*length < size; i++ {
				fmt.Fprintf(&b, `,"%s"`, fmt.Sprintf("%0*d", length, i)[:min(length, size-i*length)])
			}
			if (from+perPage)*length < size {
				w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, from+perPage))
			}
			fmt.Fprintf(w, `{"tags":[%s]}`, b.Bytes()[1:])
		})
		if tags, err := client(t, registry.Options{}).Tags(t.Context(), parse(t, host+"/team/app")); (err == nil) != (size <= most) || err != nil && !strings.Contains(err.Error(), "more than 64 MiB") {
			t.Errorf("names of %d bytes: %d tags, %v", size, len(tags), err)
		}
	}
}

// TestReferrersAndTheirPages: 1,000 of a manifest, in 100 pages at most.
func TestReferrersAndTheirPages(t *testing.T) {
	for _, c := range []struct {
		pages, perPage int
		want           string // in the error
	}{
		{1, 999, ""}, {1, 1000, ""}, {1, 1001, "more than 1000 manifests"}, {2, 500, ""}, {3, 334, "more than 1000 manifests"},
		{99, 1, ""}, {100, 1, ""}, {101, 1, "more than 100 pages"}, {100, 10, ""},
	} {
		host := answering(t, func(w http.ResponseWriter, r *http.Request) {
			page, _ := strconv.Atoi(r.URL.Query().Get("last"))
			if page++; page < c.pages {
				w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, page))
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			var b bytes.Buffer
			for i := range c.perPage {
				fmt.Fprintf(&b, `,{"digest":"%s","size":1}`, digest.FromString(fmt.Sprint(page, i)))
			}
			fmt.Fprintf(w, `{"manifests":[%s]}`, b.Bytes()[1:])
		})
		got, err := client(t, registry.Options{}).Referrers(t.Context(), parse(t, host+"/team/app"), digest.FromString("x"))
		if c.want == "" && (err != nil || len(got) != c.pages*c.perPage) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%d pages of %d: %d, %v, want %q", c.pages, c.perPage, len(got), err, c.want)
		}
	}
}

// TestCertificatesOfHostsTOML: 4 MiB of a file of certificates, or of a key.
func TestCertificatesOfHostsTOML(t *testing.T) {
	const most = 4 << 20
	dir := t.TempDir()
	folder := filepath.Join(dir, "registry.example")
	at := func(name string) string { return filepath.Join(folder, name) }
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`ca = "x.pem"`, `client = "x.pem"`, `client = [["some.pem", "x.pem"]]`} {
		write(t, at("hosts.toml"), text)
		write(t, at("some.pem"), "x")
		for size, large := range map[int]bool{most: false, most + 1: true} {
			write(t, at("x.pem"), strings.Repeat("x", size))
			if _, err := hosts.ReadDir(dir, "registry.example", nil); err == nil || errors.Is(err, textfile.ErrTooLarge) != large {
				t.Errorf("%s of %d bytes: %v", text, size, err)
			}
		}
	}
}

// TestDepthOfHostsTOML: 16 tables or arrays in each other, and parts of a key.
func TestDepthOfHostsTOML(t *testing.T) {
	const most = 16
	for _, depth := range []int{most - 1, most, most + 1} {
		for name, text := range map[string]string{
			"arrays":        "x = " + strings.Repeat("[", depth) + strings.Repeat("]", depth),
			"tables":        "x = " + strings.Repeat("{a=", depth) + "1" + strings.Repeat("}", depth),
			"a key":         "a" + strings.Repeat(".a", depth-1) + " = 1",
			"a table's key": "[a" + strings.Repeat(".a", depth-1) + "]",
			"a second key":  "x = {b = 1, a" + strings.Repeat(".a", depth-1) + " = 1}",
		} {
			dir := t.TempDir()
			path := filepath.Join(dir, "registry.example", "hosts.toml")
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, path, "# a line\n"+text+"\n")
			_, err := hosts.ReadDir(dir, "registry.example", &tls.Config{MinVersion: tls.VersionTLS12})
			if (err == nil) != (depth <= most) || err != nil && !strings.Contains(err.Error(), "hosts.toml:2: ") {
				t.Errorf("%s, %d: %v", name, depth, err)
			}
		}
	}
}
