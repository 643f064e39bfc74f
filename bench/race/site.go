package main

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"

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
	host   string
	refs   []string
	urls   []string
	layers []digest.Digest
	cmd    *exec.Cmd
	stdin  io.Closer
}

func startSet(ctx context.Context, set string) (*site, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-serve", set)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &site{cmd: cmd, stdin: stdin}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "" {
		kind, value, _ := strings.Cut(lines.Text(), " ")
		if kind == "image" {
			s.refs = append(s.refs, value)
			s.host, _, _ = strings.Cut(value, "/")
			continue
		}
		s.urls = append(s.urls, value)
		s.layers = append(s.layers, digest.Digest(value[strings.LastIndexByte(value, '/')+1:]))
	}
	if len(s.refs) == 0 {
		s.stop()
		return nil, errors.New("the registry didn't start")
	}
	return s, nil
}

func (s *site) stop() { _ = errors.Join(s.stdin.Close(), s.cmd.Wait()) }

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

// link is drayage chaos in front of the registry.
type link struct {
	host string
	cmd  *exec.Cmd
}

func startLink(ctx context.Context, program, upstream string, flags []string) (*link, error) {
	cmd := exec.CommandContext(ctx, program, append([]string{"chaos", "--upstream", upstream}, flags...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the link didn't start: %w", err)
	}
	return &link{strings.TrimPrefix(strings.TrimSpace(line), "http://"), cmd}, nil
}

func (l *link) stop() { _ = errors.Join(l.cmd.Process.Kill(), l.cmd.Wait()) }

// sent is how many bytes the link has sent so far, -1 without one.
func (l *link) sent(ctx context.Context) int64 {
	if l == nil {
		return -1
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.host+"/stats", nil)
	if err != nil {
		return -1
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	var stats map[string]int64
	if err := json.NewDecoder(resp.Body).Decode(&stats); err != nil {
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
