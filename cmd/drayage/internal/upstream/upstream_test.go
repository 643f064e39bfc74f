package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/refusal"
	"drayage/engine/event"
	"drayage/engine/mirror"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

func from(address string) client.Address { return client.AddressOf(net.JoinHostPort(address, "1")) }

// fakeUpstream has what it is asked for when it is told so.
type fakeUpstream struct {
	mirror.Upstream
	under, peak atomic.Int32
	release     chan struct{}
}

func (f *fakeUpstream) Manifest(ctx context.Context, _ reference.Image) (mirror.Manifest, error) {
	n := f.under.Add(1)
	defer f.under.Add(-1)
	f.peak.Store(max(f.peak.Load(), n))
	select {
	case <-f.release:
		return mirror.Manifest{}, nil
	case <-ctx.Done():
		return mirror.Manifest{}, ctx.Err()
	}
}

type fakeBlob struct{ mirror.Blob }

func (fakeBlob) Close() error { return nil }

func (f *fakeUpstream) Blob(context.Context, reference.Image, digest.Digest) (mirror.Blob, error) {
	return fakeBlob{}, nil
}

func TestUpstreamWorkIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &fakeUpstream{release: make(chan struct{})}
		const one, all = 2, 3
		u := New(one, all).Of(inner)
		ctxOf := func(address string) context.Context {
			return refusal.WithVisit(t.Context(), &refusal.Visit{From: from(address)})
		}
		image := func(i int) reference.Image {
			ref, err := reference.Parse(fmt.Sprintf("registry.example/app:%d", i))
			if err != nil {
				t.Fatal(err)
			}
			return ref
		}
		var work sync.WaitGroup
		var failed atomic.Int32
		ask := func(address string, i int) {
			work.Go(func() {
				if _, err := u.Manifest(ctxOf(address), image(i)); err != nil {
					failed.Add(1)
				}
			})
		}
		for i := range one + patient*one {
			ask("10.0.0.1", i)
			synctest.Wait()
		}
		if n := inner.under.Load(); n != one {
			t.Errorf("%d are under way for one address", n)
		}
		ctx := ctxOf("10.0.0.1")
		if _, err := u.Manifest(ctx, image(99)); err == nil || refusal.VisitOf(ctx).Why != "upstream" || !strings.Contains(err.Error(), "upstream") {
			t.Errorf("one more: %v", err)
		}
		for range 50 { // what is asked for already costs nothing more
			ask("10.0.0.1", 0)
		}
		for i := range 20 {
			ask(fmt.Sprintf("10.0.1.%d", i), 1000+i)
		}
		gone, cancel := context.WithCancel(ctxOf("10.0.2.1"))
		work.Go(func() {
			if _, err := u.Manifest(gone, image(7000)); err == nil {
				t.Error("who has left is answered")
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(inner.release)
		work.Wait()
		if failed.Load() > 0 {
			t.Errorf("%d that may wait are refused", failed.Load())
		}
		if n := len(u.small.tasks) + len(u.small.queue) + len(u.small.ofHost) + len(u.small.waiting); n > 0 {
			t.Errorf("%d are left", n)
		}
		// Blobs: what has come is no work, though it is read still.
		var open []mirror.Blob
		take := func(address string, i int) {
			work.Go(func() {
				b, err := u.Blob(ctxOf(address), image(i), digest.FromString(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
				}
				u.blobs.mu.Lock()
				open = append(open, b)
				u.blobs.mu.Unlock()
			})
			synctest.Wait()
		}
		take("10.0.0.1", 1)
		take("10.0.0.1", 2)
		take("10.0.0.1", 3)
		take("10.0.0.2", 4)
		take("10.0.0.3", 5)
		if len(open) != all {
			t.Errorf("%d blobs are under way", len(open))
		}
		u.Observe(event.Fetched{Digest: digest.FromString("1")})
		synctest.Wait()
		if len(open) != all+1 {
			t.Errorf("%d blobs were begun when one had come", len(open))
		}
		u.Observe(event.Failed{Digest: digest.FromString("2")})
		work.Wait()
		for _, b := range open {
			if err := errors.Join(b.Close(), b.Close()); err != nil {
				t.Error(err)
			}
		}
		if n := len(u.blobs.tasks) + len(u.blobs.queue) + len(u.blobs.ofHost) + len(u.blobs.waiting); n > 0 {
			t.Errorf("%d are left", n)
		}
	})
}
