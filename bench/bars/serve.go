//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	wait "sync"
	"syscall"
	"time"

	"drayage/bench/internal/course"
	"drayage/bench/internal/load"
	"drayage/engine/registry/registrytest"
)

// mirrored is drayage serve as a process.
type mirrored struct {
	cmd  *exec.Cmd
	host string
}

// startServe serves a store.
func startServe(ctx context.Context, b bench, store string, flags ...string) (*mirrored, error) {
	cmd := exec.CommandContext(ctx, b.program, append([]string{"serve", "--listen", "127.0.0.1:0", "--store", store}, flags...)...)
	errs, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	said := bufio.NewReader(errs)
	line, err := said.ReadString('\n')
	go func() { _, _ = io.Copy(io.Discard, said) }() // to its end: it must not wait for who reads
	m := regexp.MustCompile(`https?://(\S+)`).FindStringSubmatch(line)
	if err != nil || m == nil {
		return nil, fmt.Errorf("it doesn't serve: %q", line)
	}
	return &mirrored{cmd, m[1]}, nil
}

func (m *mirrored) stop() { _ = errors.Join(m.cmd.Process.Kill(), m.cmd.Wait()) }

// peak is the most memory that it has had, in bytes.
func (m *mirrored) peak() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+)`).FindSubmatch(raw)
	if found == nil {
		return 0
	}
	n, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}

// downloads is the throughput of getting a URL by curl, in bytes a second.
func downloads(ctx context.Context, url string) (float64, error) {
	raw, err := exec.CommandContext(ctx, "curl", "-s", "-f", "-o", "/dev/null", "-w", "%{speed_download}", url).Output()
	if err != nil {
		return 0, fmt.Errorf("curl %s: %w", url, err)
	}
	return strconv.ParseFloat(string(raw), 64)
}

// serving is what drayage serve makes of one large blob, of many small manifests, and of
// many connections.
func serving(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "1x1024M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	place := filepath.Join(b.scratch, "serve")
	store := filepath.Join(place, "store")
	if _, err := b.timed(ctx, b.pull(place, s.ref)); err != nil {
		return nil, err
	}
	m, err := startServe(ctx, b, store, "--default-registry", s.host)
	if err != nil {
		return nil, err
	}
	defer m.stop()
	blob := s.urls[0][strings.LastIndexByte(s.urls[0], '/')+1:]
	mine := "http://" + m.host + "/v2/bench/blobs/" + blob
	var bars []bar
	nginx, err := startNginx(ctx, place, filepath.Join(store, "blobs", "sha256"))
	if err != nil {
		bars = append(bars, bar{"serve of 1 GiB to one client: / nginx with sendfile", "nginx can't be run: " + err.Error(), "", true})
	} else {
		defer nginx.stop()
		var ratios []float64
		for range max(3, b.rounds) {
			a, err := downloads(ctx, mine)
			if err != nil {
				return nil, err
			}
			c, err := downloads(ctx, "http://"+nginx.host+"/"+strings.TrimPrefix(blob, "sha256:"))
			if err != nil {
				return nil, err
			}
			ratios = append(ratios, a/c)
		}
		r := median(ratios)
		bars = append(bars, bar{"serve of 1 GiB to one client: / nginx with sendfile", fmt.Sprintf("%.2fx", r), ">= 0.95x", r >= 0.95})
	}
	perSecond, failed := hammer(ctx, []string{"http://" + m.host + "/v2/bench/manifests/1"}, 16, 5*time.Second)
	bars = append(bars, bar{"serve: manifests a second, 16 connections, client on the same cores", fmt.Sprintf("%.0f, %d failed", perSecond, failed), ">= 10000", perSecond >= 10_000 && failed == 0})
	crowd, err := crowded(ctx, b, s, store, mine)
	if err != nil {
		return nil, err
	}
	bars = append(bars, crowd...)
	more, err := throughBars(ctx, b)
	return append(bars, more...), err
}

// crowded is what becomes of a mirror with 1,000 connections at work on manifests and parts
// of blobs, while the store is swept and added to beside it.
func crowded(ctx context.Context, b bench, s *site, store, blob string) ([]bar, error) {
	const many, most = 1000, int64(64<<20 + 1000*64<<10)
	m, err := startServe(ctx, b, store, "--default-registry", s.host, "--max-per-client", "0")
	if err != nil {
		return nil, err
	}
	defer m.stop()
	other, err := startSite(ctx, "4x1M")
	if err != nil {
		return nil, err
	}
	defer other.Stop()
	_, there, err := net.SplitHostPort(m.host)
	if err != nil {
		return nil, err
	}
	mine := "http://127.0.0.1:" + there
	before := m.descriptors()
	beside, stop := context.WithCancel(ctx)
	var working wait.WaitGroup
	var trouble error
	rounds := 0
	working.Go(func() {
		for beside.Err() == nil && trouble == nil {
			for _, args := range [][]string{
				{"pull", "-q", "--no-sync", "--platform", "linux/amd64", "--store", store, other.ref},
				{"store", "rm", "--store", store, other.ref}, {"store", "gc", "-q", "--grace", "0s", "--store", store},
			} {
				if out, err := exec.CommandContext(ctx, b.program, args...).CombinedOutput(); err != nil {
					trouble = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
				}
			}
			rounds++
		}
	})
	_, failed := hammer(ctx, []string{mine + "/v2/bench/manifests/1", mine + blob[strings.Index(blob, "/v2/"):]}, many, time.Minute)
	stop()
	working.Wait()
	if trouble != nil {
		return nil, trouble
	}
	left := m.descriptors()
	for range 100 { // the connections are closed; that is seen soon
		if left <= before+2 {
			break
		}
		const between = 50 * time.Millisecond
		time.Sleep(between)
		left = m.descriptors()
	}
	peak := m.peak()
	return []bar{
		{"serve with 1000 connections at work for a minute, sweeps and pulls beside it: requests that failed", fmt.Sprintf("%d (%d sweeps)", failed, rounds), "0", failed == 0 && rounds > 0},
		{"the same: peak memory", fmt.Sprintf("%d MiB", peak>>20), fmt.Sprintf("<= %d MiB", most>>20), peak <= most},
		{"the same: descriptors before and after", fmt.Sprintf("%d, %d", before, left), "as many", left <= before+2},
	}, nil
}

// descriptors is how many files it has open.
func (m *mirrored) descriptors() int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.cmd.Process.Pid))
	if err != nil {
		return -1
	}
	return len(list)
}

// hammer asks for URLs in turn over some connections, of blobs for a part, and returns
// answers a second and how many failed.
func hammer(ctx context.Context, urls []string, connections int, d time.Duration) (perSecond float64, failed int) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	var mu wait.Mutex
	done := 0
	load.Run(ctx, load.Options{Workers: connections, Duration: d}, func(ctx context.Context, n int, _ time.Time) {
		err := get(ctx, client, urls[n%len(urls)], n)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed++
		} else {
			done++
		}
	})
	return float64(done) / d.Seconds(), failed
}

// get reads a manifest, or the n-th part of a blob.
func get(ctx context.Context, client *http.Client, url string, n int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if strings.Contains(url, "/blobs/") {
		const part = 16 << 10
		from := n % 1000 * part
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, from+part-1))
		want = http.StatusPartialContent
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != want {
		err = errors.New(resp.Status)
	}
	return err
}

// throughBars is what a cold blob costs by way of a mirror, over a line with 40 ms.
func throughBars(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "8x64M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	l, err := startLink(ctx, b, s, "--latency", "40ms", "--rate", "100M")
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	m, err := startServe(ctx, b, filepath.Join(b.scratch, "through"), "--default-registry", l.Host, "--pull-through", l.Host)
	if err != nil {
		return nil, err
	}
	defer m.stop()
	if _, err := downloads(ctx, "http://"+m.host+"/v2/bench/manifests/1"); err != nil {
		return nil, err
	}
	var first, whole []float64
	for _, u := range s.urls { // each is cold once
		var times [2][2]float64 // by way of the mirror, and directly
		for i, host := range []string{m.host, l.Host} {
			raw, err := exec.CommandContext(ctx, "curl", "-s", "-f", "-o", "/dev/null", "-w", "%{time_starttransfer} %{time_total}", strings.Replace(u, s.host, host, 1)).Output()
			if err != nil {
				return nil, err
			}
			if _, err := fmt.Sscan(string(raw), &times[i][0], &times[i][1]); err != nil {
				return nil, err
			}
		}
		first, whole = append(first, times[0][0]/times[1][0]), append(whole, times[0][1]/times[1][1])
	}
	return []bar{
		atMost("serve, a cold blob of 64 MiB through a line of 40 ms: first byte / direct", median(first), 1.2, ""),
		atMost("the same: whole / direct", median(whole), 1.1, ""),
	}, nil
}

// startNginx serves a folder by nginx.
func startNginx(ctx context.Context, place, root string) (*mirrored, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	host := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	conf := filepath.Join(place, "nginx.conf")
	text := fmt.Sprintf("daemon off;\npid %[1]s/nginx.pid;\nerror_log %[1]s/nginx.log;\nuser root;\nworker_processes 2;\nevents {}\nhttp { access_log off; sendfile on; tcp_nopush on; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5; server { listen %[2]s; root %[3]s; } }\n", place, host, root)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nginx", "-c", conf)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	m := &mirrored{cmd, host}
	const tries, between = 100, 50 * time.Millisecond
	for range tries {
		if c, err := new(net.Dialer).DialContext(ctx, "tcp", host); err == nil {
			return m, c.Close()
		}
		time.Sleep(between)
	}
	m.stop()
	return nil, errors.New("it doesn't answer")
}

// warmRound is a round over many images of which none has changed, at 50 ms.
func warmRound(ctx context.Context, b bench) ([]bar, error) {
	const images, connections, trip = 1000, 8, 0.05
	server, err := course.Serve(ctx, "-serve", fmt.Sprintf("%dtags", images))
	if err != nil {
		return nil, err
	}
	defer server.Stop()
	host := server.Lines[0]
	l, err := course.StartLink(ctx, b.program, host, "--latency", "50ms")
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	place := filepath.Join(b.scratch, "warm")
	if err := os.MkdirAll(place, 0o755); err != nil {
		return nil, err
	}
	var text strings.Builder
	text.WriteString("groups:\n- name: all\n  every: 1h\n  platforms: [linux/amd64]\n  images:\n")
	for i := range images {
		fmt.Fprintf(&text, "  - %s/app%d:1\n", l.Host, i)
	}
	config := filepath.Join(place, "warm.yaml")
	if err := os.WriteFile(config, []byte(text.String()), 0o644); err != nil {
		return nil, err
	}
	args := []string{b.program, "warm", "-q", "-c", config, "--once", "--store", filepath.Join(place, "store"), "--per-host", strconv.Itoa(connections)}
	if _, err := b.timed(ctx, args); err != nil {
		return nil, err
	}
	before, err := l.Stats(ctx)
	if err != nil {
		return nil, err
	}
	took, err := b.timed(ctx, args)
	if err != nil {
		return nil, err
	}
	after, err := l.Stats(ctx)
	if err != nil {
		return nil, err
	}
	requests := after["requests"] - before["requests"]
	bare := trip * images / connections
	return []bar{
		{"warm, 1000 unchanged images: requests", fmt.Sprint(requests), "<= 1010", requests <= images+10},
		atMost("the same at 50 ms: / the bare round trips over 8 connections", took/bare, 1.3, fmt.Sprintf("%.2f s", took)),
	}, nil
}

// manyTags is a registry of small images, each with one layer, until standard input ends.
func manyTags(n int, until io.Reader, out io.Writer) error {
	server := registrytest.New()
	defer server.Close()
	base := registrytest.Random(1, 1000)
	for i := range n {
		server.Push(fmt.Sprintf("app%d", i), "1", registrytest.Build("linux/amd64", base, registrytest.Random(uint64(i), 100)))
	}
	fmt.Fprintf(out, "%s\n\n", server.Host())
	_, err := io.Copy(io.Discard, until)
	return err
}

// lookingAfter is verifying and sweeping.
func lookingAfter(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "8x128M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	place := filepath.Join(b.scratch, "after")
	if _, err := b.timed(ctx, b.pull(place, s.ref)); err != nil {
		return nil, err
	}
	store := filepath.Join(place, "store")
	var ratios []float64
	for range max(3, b.rounds) {
		mine, err := b.timed(ctx, []string{b.program, "store", "verify", "--store", store})
		if err != nil {
			return nil, err
		}
		syscall.Sync()
		theirs, err := b.timed(ctx, []string{"sh", "-c", "cd " + filepath.Join(store, "blobs", "sha256") + " && ls | xargs -P $(nproc) -n 1 sha256sum >/dev/null"})
		if err != nil {
			return nil, err
		}
		ratios = append(ratios, theirs/mine)
	}
	r := median(ratios)
	bars := []bar{{"store verify: speed / sha256sum on all cores", fmt.Sprintf("%.2fx", r), ">= 0.90x", r >= 0.9}}
	const blobs = 100_000
	dir := filepath.Join(store, "blobs", "sha256")
	for i := range blobs {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%064x", i)), nil, 0o444); err != nil {
			return nil, err
		}
	}
	took, err := b.timed(ctx, []string{b.program, "store", "gc", "-q", "--grace", "0s", "--store", store})
	if err != nil {
		return nil, err
	}
	return append(bars, bar{"store gc of 100,000 blobs", fmt.Sprintf("%.2f s", took), "<= 10 s", took <= 10}), nil
}
