//go:build unix

package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"drayage/bench/internal/course"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// serveSet is a registry with a set of images, in a process of its own. It writes a
// line for each image and each layer, with its size, its digest unpacked and its URL,
// and where its counters are; then an empty line.
func serveSet(set string, until io.Reader, out io.Writer) error {
	server := registrytest.New()
	defer server.Close()
	counters, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stats := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"bytes_sent": %d, "requests": %d}`, server.Sent(), server.Count(""))
	})}
	served := make(chan error, 1)
	go func() { served <- stats.Serve(counters) }()
	var b strings.Builder
	fmt.Fprintf(&b, "counters http://%s/\n", counters.Addr())
	seen := make(map[digest.Digest]bool)
	images, all, err := imagesOf(set)
	if err != nil {
		return err
	}
	for i, platforms := range images {
		repo := fmt.Sprintf("race/app%d", i)
		if all {
			fmt.Fprintf(&b, "all %s\n", server.PushIndex(repo, "1", ocispec.MediaTypeImageIndex, platforms...))
		} else {
			fmt.Fprintf(&b, "image %s\n", server.Push(repo, "1", platforms[0]))
		}
		for _, img := range platforms {
			var config ocispec.Image
			if err := json.Unmarshal(img.Blobs[img.Config.Digest], &config); err != nil {
				return err
			}
			for n, l := range img.Layers {
				if !seen[l.Digest] {
					seen[l.Digest] = true
					fmt.Fprintf(&b, "layer %d %s http://%s/v2/%s/blobs/%s\n", l.Size, config.RootFS.DiffIDs[n], server.Host(), repo, l.Digest)
				}
			}
		}
	}
	fmt.Fprintln(out, b.String())
	_, err = io.Copy(io.Discard, until)
	if err = errors.Join(err, stats.Close()); err != nil {
		return err
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// imagesOf makes the images of a set, each with its platforms, and says whether all of
// them are to be pulled.
func imagesOf(set string) (images [][]registrytest.Image, all bool, err error) {
	one := func(layers ...[]byte) [][]registrytest.Image {
		return [][]registrytest.Image{{registrytest.Build("linux/amd64", layers...)}}
	}
	var layers [][]byte
	switch set {
	case "typical", "zstd":
		for i, mb := range []int{2, 5, 10, 20, 40, 50, 60, 63} {
			if set == "zstd" {
				layers = append(layers, registrytest.ZstdLayer(uint64(i), mb*1_000_000))
			} else {
				layers = append(layers, registrytest.Layer(uint64(i), mb*1_000_000))
			}
		}
		return one(layers...), false, nil
	case "large":
		return one(registrytest.Layer(1, 1536<<20)), false, nil
	case "one":
		return one(registrytest.Layer(1, 128<<20)), false, nil
	case "small":
		for i := range 100 {
			layers = append(layers, registrytest.Layer(uint64(i), 64<<10))
		}
		return one(layers...), false, nil
	case "many":
		const bases, apps = 6, 60
		for i := range bases {
			layers = append(layers, registrytest.Layer(uint64(i), 10_000_000))
		}
		for i := range apps {
			images = append(images, one(layers[i%bases], layers[(i+1)%bases], registrytest.Layer(uint64(100+i), 1_000_000))...)
		}
		return images, false, nil
	case "platforms":
		shared := registrytest.Layer(1, 5_000_000) // data, the same on every platform
		var platforms []registrytest.Image
		for i, p := range []string{"linux/amd64", "linux/arm64/v8", "linux/s390x"} {
			platforms = append(platforms, registrytest.Build(p, registrytest.Layer(uint64(10+i), 30_000_000), shared, registrytest.Layer(uint64(20+i), 5_000_000)))
		}
		return [][]registrytest.Image{platforms}, true, nil
	}
	return nil, false, fmt.Errorf("no set of images %q", set)
}

// site is that registry as seen from here.
type site struct {
	*course.Server
	host     string
	counters string // a URL
	refs     []string
	urls     []string
	layers   []layer
	all      bool
}

// layer is one that a result must have, packed or unpacked.
type layer struct {
	packed, unpacked digest.Digest
	size             int64
}

func startSet(ctx context.Context, set string) (*site, error) {
	server, err := course.Serve(ctx, "-serve", set)
	if err != nil {
		return nil, err
	}
	s := &site{Server: server}
	for _, line := range server.Lines {
		kind, value, _ := strings.Cut(line, " ")
		switch kind {
		case "counters":
			s.counters = value
		case "image", "all":
			s.refs = append(s.refs, value)
			s.host, _, _ = strings.Cut(value, "/")
			s.all = kind == "all"
		case "layer":
			var l layer
			var url string
			if _, err := fmt.Sscan(value, &l.size, &l.unpacked, &url); err != nil {
				s.Stop()
				return nil, fmt.Errorf("the registry says %q: %w", line, err)
			}
			l.packed = digest.Digest(url[strings.LastIndexByte(url, '/')+1:])
			s.urls, s.layers = append(s.urls, url), append(s.layers, l)
		}
	}
	return s, nil
}

// through is the job of pulling all of it by way of a host.
func (s *site) through(host string) job {
	j := job{all: s.all}
	for _, r := range s.refs {
		j.refs = append(j.refs, strings.Replace(r, s.host, host, 1))
	}
	for _, u := range s.urls {
		j.urls = append(j.urls, strings.Replace(u, s.host, host, 1))
	}
	return j
}

// counts are what the registry has sent so far.
func (s *site) counts(ctx context.Context) (map[string]int64, error) {
	return course.Counts(ctx, s.counters)
}

// walkTar calls f with each member's content, as far as the tar can be read.
func walkTar(r io.Reader, f func(io.Reader)) {
	for tr := tar.NewReader(r); ; {
		if _, err := tr.Next(); err != nil {
			return
		}
		f(tr)
	}
}
