package siege

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Honest are clients that ask a mirror, again and again, for an image that its store has, each tenth
// time for a blob that it doesn't have yet, and some of them over HTTPS.
type Honest struct {
	Host           string
	User, Password string
	Repo, Tag      string
	Blobs          []ocispec.Descriptor
	Clients        int
	Every          time.Duration // a request of each client
	// Fresh are the blobs that the store doesn't have, and FreshRepo the repository of them, with its
	// registry. Each is asked for in its turn by all clients.
	Fresh     []ocispec.Descriptor
	FreshRepo string
	// Secure is HOST:PORT where the same store is served over HTTPS, without what is upstream, to
	// each fifth client; "" is nowhere.
	Secure string
}

// Outcome is what they got.
type Outcome struct {
	Requests int
	Failed   []error // at most a few of each client's
	Failures int
	// P50 and P99 are how long half, and all but a hundredth, of the requests took at most, to
	// the last byte.
	P50, P99 time.Duration
}

// Run asks until ctx is done.
func (h Honest) Run(ctx context.Context) Outcome {
	var (
		mu      sync.Mutex
		out     Outcome
		took    []time.Duration
		working sync.WaitGroup
	)
	for i := range h.Clients {
		working.Go(func() {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
			h := h
			if h.Secure != "" && i%5 == 4 {
				client.Transport = overHTTP2(nil)
				h.Fresh, h.Host = nil, h.Secure
			} else {
				h.Secure = ""
			}
			defer client.CloseIdleConnections()
			each(ctx, h.Every, func(n int) {
				begun := time.Now()
				err := h.ask(ctx, client, n)
				d := time.Since(begun)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				out.Requests++
				took = append(took, d)
				if err != nil {
					out.Failures++
					const most = 20
					if len(out.Failed) < most {
						out.Failed = append(out.Failed, err)
					}
				}
			})
		})
	}
	working.Wait()
	if len(took) > 0 {
		slices.Sort(took)
		out.P50, out.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return out
}

// ask asks for the manifest by its tag, or for one of the blobs.
func (h Honest) ask(ctx context.Context, client *http.Client, n int) error {
	const freshly = 10
	path, want := h.Repo+"/manifests/"+h.Tag, digest.Digest("")
	if i := n % (len(h.Blobs) + 1); n%freshly == freshly-1 && len(h.Fresh) > 0 {
		want = h.Fresh[n/freshly%len(h.Fresh)].Digest
		path = h.FreshRepo + "/blobs/" + want.String()
	} else if i > 0 {
		want = h.Blobs[i-1].Digest
		path = h.Repo + "/blobs/" + want.String()
	}
	scheme := "http"
	if h.Secure != "" {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+h.Host+"/v2/"+path, nil)
	if err != nil {
		return err
	}
	if h.User != "" {
		req.SetBasicAuth(h.User, h.Password)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if want == "" {
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	v := want.Verifier()
	if _, err := io.Copy(v, resp.Body); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !v.Verified() {
		return errors.New(path + ": not what it should be")
	}
	return nil
}
