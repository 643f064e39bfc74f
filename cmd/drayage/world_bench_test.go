package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"drayage/bench"
	"drayage/engine/registry/registrytest"
)

func TestWorldBench(t *testing.T) {
	measure := func(t *testing.T, w *world, status int, args ...string) (*bench.Report, outcome) {
		t.Helper()
		path := filepath.Join(w.home, "report.json")
		o := w.run(append([]string{"bench", "--bytes", "20M", "--rounds", "2", "--connections", "2", "--warm-up", "0s", "--json", path}, args...)...)
		w.want(o, status)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var r bench.Report
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatal(err)
		}
		return &r, o
	}
	failing := func(w *world, share int32) {
		var n atomic.Int32
		w.reg.Break("/blobs/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if n.Add(1)%10 < share {
				rw.WriteHeader(503)
				fmt.Fprint(rw, "short")
				return
			}
			next.ServeHTTP(rw, r)
		}))
	}
	large := registrytest.Build("linux/amd64", registrytest.Random(1, 100_000))

	t.Run("B1", func(t *testing.T) {
		w, bad := newWorld(t), newWorld(t)
		good := w.reg.Push("large", "1", large)
		other := bad.reg.Push("large", "1", large)
		failing(bad, 9)
		r, o := measure(t, w, 0, "--platform", "linux/amd64", good, other)
		for _, x := range r.Results {
			if isBad := strings.HasPrefix(x.Target, bad.reg.Host()); isBad != x.Failing || isBad && (x.Throughput.Estimate != 0 || x.Latency.Count != 0 || x.ErrorShare < 0.8) {
				t.Errorf("%s: failing %v, %+v, errors %v", x.Target, x.Failing, x.Throughput, x.ErrorShare)
			}
		}
		for _, c := range r.Comparisons {
			if c.Throughput.Real || c.Why == "" {
				t.Errorf("a comparison with a failing target: %+v", c)
			}
		}
		w.want(o, 0, "not compared", "–", "!times the throughput")
	})

	t.Run("B1 some errors", func(t *testing.T) {
		w, bad := newWorld(t), newWorld(t)
		good := w.reg.Push("large", "1", large)
		other := bad.reg.Push("large", "1", large)
		failing(bad, 2)
		r, o := measure(t, w, 0, "--platform", "linux/amd64", good, other)
		for _, x := range r.Results {
			if strings.HasPrefix(x.Target, bad.reg.Host()) && (x.ErrorShare < 0.1 || x.Failing || x.Throughput.Estimate <= 0) {
				t.Errorf("%+v, errors %v", x.Throughput, x.ErrorShare)
			}
		}
		w.want(o, 0, "status 503 (")
		for _, c := range r.Comparisons {
			if c.Throughput.Real && c.Throughput.Ratio.Estimate > 1 {
				t.Errorf("a failing target is called faster: %+v", c)
			}
		}
	})

	t.Run("nothing but errors", func(t *testing.T) {
		w := newWorld(t)
		name := w.reg.Push("large", "1", large)
		failing(w, 10)
		_, o := measure(t, w, 5, "--platform", "linux/amd64", name)
		w.want(o, 5, "reads failed", "status 503", "!--bytes or --duration")
	})

	t.Run("a baseline with nothing in common", func(t *testing.T) {
		w := newWorld(t)
		name := w.reg.Push("large", "1", large)
		measure(t, w, 0, "--platform", "linux/amd64", name)
		w.want(w.run("bench", "--bytes", "5M", "--rounds", "1", "--connections", "3", "--platform", "linux/amd64", "--baseline", "report.json", name), 2, "--baseline")
	})
}
