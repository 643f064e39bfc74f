package main

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"strings"

	"drayage/bench/course"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// serveSet is a registry with a set of images, in a process of its own. It writes a
// line for each image and each layer, and an empty one.
func serveSet(set string, until io.Reader, out io.Writer) error {
	server := registrytest.New()
	defer server.Close()
	images, err := imagesOf(set)
	if err != nil {
		return err
	}
	var b strings.Builder
	seen := make(map[digest.Digest]bool)
	for i, img := range images {
		fmt.Fprintf(&b, "image %s\n", server.Push(fmt.Sprintf("race/app%d", i), "1", img))
		for _, l := range img.Layers {
			if !seen[l.Digest] {
				seen[l.Digest] = true
				fmt.Fprintf(&b, "layer http://%s/v2/race/app%d/blobs/%s\n", server.Host(), i, l.Digest)
			}
		}
	}
	fmt.Fprintln(out, b.String())
	_, err = io.Copy(io.Discard, until)
	return err
}

// imagesOf makes the images of a set.
func imagesOf(set string) ([]registrytest.Image, error) {
	var layers [][]byte
	switch set {
	case "typical":
		for i, mb := range []int{2, 5, 10, 20, 40, 50, 60, 63} {
			layers = append(layers, registrytest.Layer(uint64(i), mb*1_000_000))
		}
	case "one":
		layers = [][]byte{registrytest.Layer(1, 128<<20)}
	case "small":
		for i := range 100 {
			layers = append(layers, registrytest.Layer(uint64(i), 64<<10))
		}
	case "many":
		var out []registrytest.Image
		var bases [][]byte
		for i := range 3 {
			bases = append(bases, registrytest.Layer(uint64(i), 10_000_000))
		}
		for i := range 20 {
			out = append(out, registrytest.Build("linux/amd64", bases[i%3], bases[(i+1)%3], registrytest.Layer(uint64(100+i), 2_000_000)))
		}
		return out, nil
	default:
		return nil, fmt.Errorf("no set of images %q", set)
	}
	return []registrytest.Image{registrytest.Build("linux/amd64", layers...)}, nil
}

// site is that registry as seen from here.
type site struct {
	*course.Server
	host   string
	refs   []string
	urls   []string
	layers []digest.Digest
}

func startSet(ctx context.Context, set string) (*site, error) {
	server, err := course.Serve(ctx, "-serve", set)
	if err != nil {
		return nil, err
	}
	s := &site{Server: server}
	for _, line := range server.Lines {
		kind, value, _ := strings.Cut(line, " ")
		if kind == "image" {
			s.refs = append(s.refs, value)
			s.host, _, _ = strings.Cut(value, "/")
			continue
		}
		s.urls = append(s.urls, value)
		s.layers = append(s.layers, digest.Digest(value[strings.LastIndexByte(value, '/')+1:]))
	}
	return s, nil
}

// through is the job of pulling all of it by way of a host.
func (s *site) through(host string) job {
	var j job
	for _, r := range s.refs {
		j.refs = append(j.refs, strings.Replace(r, s.host, host, 1))
	}
	for _, u := range s.urls {
		j.urls = append(j.urls, strings.Replace(u, s.host, host, 1))
	}
	return j
}

// sent is how many bytes a link has sent so far, -1 without one.
func sent(ctx context.Context, l *course.Link) int64 {
	if l == nil {
		return -1
	}
	stats, err := l.Stats(ctx)
	if err != nil {
		return -1
	}
	return stats["bytes_sent"]
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
