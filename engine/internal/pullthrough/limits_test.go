package pullthrough_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"drayage/engine/internal/limits"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// What is asked of registries at once is as much as the limits say, in all and of one of them, and
// no more: the rest waits, and has its turn.
func TestThroughAsksAsMuchAtOnceAsTheLimitsSay(t *testing.T) {
	some := func(i int) string { return digest.FromString(fmt.Sprint(i)).String() }
	for name, c := range map[string]struct {
		all, each    int
		path         func(i int) string
		method, part string // of the requests that are counted
		fetches      bool
	}{
		"questions": {limits.QuestionsAtOnce, limits.QuestionsPerRegistry, func(i int) string { return "blobs/" + some(i) }, http.MethodHead, "/blobs/", false},
		"documents": {limits.DocumentsAtOnce, limits.DocumentsPerRegistry, func(i int) string { return "manifests/" + some(i) }, http.MethodGet, "/manifests/", false},
		"lists":     {limits.ListsAtOnce, 1, func(i int) string { return fmt.Sprintf("%d/tags/list", i) }, http.MethodGet, "/tags/", false},
		"fetches":   {limits.FetchesAtOnce, limits.FetchesPerRegistry, func(i int) string { return "blobs/" + some(i) }, http.MethodGet, "/blobs/", true},
	} {
		registries := c.all/c.each + 2
		r := newFrontOf(t, registries, time.Hour, 0, 10*time.Minute) // nothing gives up meanwhile
		var mu sync.Mutex
		now, peak := 0, 0
		of, peakOf := make(map[int]int), 0
		begun, release := make(chan struct{}, 1000), make(chan struct{})
		for i, s := range r.others {
			s.Break("/v2/", registrytest.Always, func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method == c.method && strings.Contains(req.URL.Path, c.part) {
						mu.Lock()
						now++
						of[i]++
						peak, peakOf = max(peak, now), max(peakOf, of[i])
						mu.Unlock()
						begun <- struct{}{}
						<-release
						mu.Lock()
						now--
						of[i]--
						mu.Unlock()
					}
					if req.Method == http.MethodHead && c.fetches {
						w.Header().Set("Content-Length", "1000")
						return
					}
					http.NotFound(w, req)
				})
			})
		}
		var asking sync.WaitGroup
		total := 0
		for i := range registries {
			for k := range c.each + 2 {
				total++
				asking.Go(func() { r.get(r.of(i, "team/app/"+c.path(100*i+k))) })
			}
			if i == 0 { // the first has all its turns, whoever is faster afterwards
				for range c.each {
					<-begun
				}
			}
		}
		for range c.all - c.each {
			<-begun
		}
		// Who asks would have a turn by now, were there more.
		until(t, "all ask", func() bool { return !c.fetches && r.through.Waiting() == total || r.through.InFlight() == total })
		close(release)
		asking.Wait()
		if peak != c.all || peakOf != c.each {
			t.Errorf("%s: %d at once, %d of one registry; want %d and %d", name, peak, peakOf, c.all, c.each)
		}
		r.through.Close()
	}
}

// What may take long takes as long as the limits say.
func TestThroughWaitsAsLongAsTheLimitsSay(t *testing.T) {
	r := newFront(t, 1, 0, 0)
	if within, grace := r.through.Times(); within != limits.QuestionTime || grace != limits.FetchGrace {
		t.Errorf("%s for questions, %s for blobs that nobody waits for", within, grace)
	}
}
