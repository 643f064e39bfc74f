// Package upstream bounds how much clients have a mirror ask its upstream for at once.
package upstream

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/refusal"
	"drayage/engine/event"
	"drayage/engine/mirror"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounded bounds what clients may have fetched at once, of one address and in all. What many ask
// for is fetched once, and counts once. A request beyond a bound waits for its turn; where eight
// times as many wait already, it is refused with status 429.
//
// Blobs, and all that is small, have bounds of their own: a manifest, which may be in the store,
// waits for no blob.
type Bounded struct {
	mirror.Upstream
	blobs, small *turns
}

// New makes bounds: perClient blobs and as much else for one address, all blobs and four
// times as much else for all; 0 is no bound. They are an event.Observer: a blob that has come is no
// work any more, however slowly clients read it.
func New(perClient, all int) *Bounded {
	const more = 4
	return &Bounded{blobs: newTurns(perClient, all), small: newTurns(perClient, more*all)}
}

// Of is an upstream that is held to the bounds. Call it once, before anything else.
func (u *Bounded) Of(inner mirror.Upstream) *Bounded {
	u.Upstream = inner
	return u
}

// Manifest implements mirror.Upstream.
func (u *Bounded) Manifest(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	done, err := u.small.begin(ctx, "manifest "+ref.Name(), "")
	if err != nil {
		return mirror.Manifest{}, err
	}
	defer done()
	return u.Upstream.Manifest(ctx, ref)
}

// Size implements mirror.Upstream.
func (u *Bounded) Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	done, err := u.small.begin(ctx, fmt.Sprintf("size %s/%s@%s", ref.Registry(), ref.Repository(), d), "")
	if err != nil {
		return 0, err
	}
	defer done()
	return u.Upstream.Size(ctx, ref, d)
}

// Tags implements mirror.Upstream.
func (u *Bounded) Tags(ctx context.Context, ref reference.Image) ([]string, error) {
	done, err := u.small.begin(ctx, "tags "+ref.Registry()+"/"+ref.Repository(), "")
	if err != nil {
		return nil, err
	}
	defer done()
	return u.Upstream.Tags(ctx, ref)
}

// Holds implements mirror.Upstream.
func (u *Bounded) Holds(ctx context.Context, ref reference.Image, d digest.Digest, manifest bool) error {
	done, err := u.small.begin(ctx, fmt.Sprintf("holds %s/%s@%s", ref.Registry(), ref.Repository(), d), "")
	if err != nil {
		return err
	}
	defer done()
	return u.Upstream.Holds(ctx, ref, d, manifest)
}

// Referrers implements mirror.Upstream.
func (u *Bounded) Referrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	done, err := u.small.begin(ctx, fmt.Sprintf("referrers %s/%s@%s", ref.Registry(), ref.Repository(), subject), "")
	if err != nil {
		return nil, err
	}
	defer done()
	return u.Upstream.Referrers(ctx, ref, subject)
}

// Blob implements mirror.Upstream.
func (u *Bounded) Blob(ctx context.Context, ref reference.Image, d digest.Digest) (mirror.Blob, error) {
	done, err := u.blobs.begin(ctx, fmt.Sprintf("blob %s/%s@%s", ref.Registry(), ref.Repository(), d), d)
	if err != nil {
		return nil, err
	}
	b, err := u.Upstream.Blob(ctx, ref, d)
	if err != nil {
		done()
		return nil, err
	}
	return &boundBlob{b, done}, nil
}

type boundBlob struct {
	mirror.Blob
	done func()
}

// Close implements io.Closer.
func (b *boundBlob) Close() error {
	defer b.done()
	return b.Blob.Close()
}

// Observe implements event.Observer.
func (u *Bounded) Observe(e event.Event) {
	switch e := e.(type) {
	case event.Fetched:
		u.blobs.over(e.Digest)
	case event.Failed:
		u.blobs.over(e.Digest)
	}
}

// turns are what is done upstream, and what waits to be.
type turns struct {
	perClient, all int

	mu      sync.Mutex
	tasks   map[string]*task
	ofHost  map[netip.Prefix]int // tasks that an address takes part in
	waiting map[netip.Prefix]int
	queue   []*turn
}

// task is something that is done for one client or for many.
type task struct {
	digest  digest.Digest        // "" when it is no blob
	clients map[netip.Prefix]int // requests
}

// turn is a request.
type turn struct {
	key   string
	d     digest.Digest
	from  client.Address
	task  *task // that it takes part in, when begun is closed
	begun chan struct{}
}

// patient is how many times as many as may be under way may wait.
const patient = 8

func newTurns(perClient, all int) *turns {
	return &turns{perClient: perClient, all: all, tasks: make(map[string]*task), ofHost: make(map[netip.Prefix]int), waiting: make(map[netip.Prefix]int)}
}

// begin waits for a request's turn. done ends its part in the task.
func (u *turns) begin(ctx context.Context, key string, d digest.Digest) (done func(), err error) {
	v := refusal.VisitOf(ctx)
	t := &turn{key: key, d: d, from: v.From, begun: make(chan struct{})}
	u.mu.Lock()
	switch {
	case u.fits(t):
		u.start(t)
	case u.tooMany(t):
		u.mu.Unlock()
		v.Why = "upstream"
		return nil, mirror.Refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests that need upstream are under way")
	default:
		u.queue = append(u.queue, t)
		u.waiting[t.from.Host]++
	}
	u.mu.Unlock()
	select {
	case <-t.begun:
	case <-ctx.Done():
		u.mu.Lock()
		defer u.mu.Unlock()
		if i := slices.Index(u.queue, t); i >= 0 {
			u.unqueue(i)
		} else { // it began at the same moment
			u.leave(t)
			u.admit()
		}
		return nil, context.Cause(ctx)
	}
	return sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.leave(t)
		u.admit()
	}), nil
}

// over ends what is done for a blob, for all that take part in it.
func (u *turns) over(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, t := range u.tasks {
		if t.digest != d {
			continue
		}
		for host := range t.clients {
			client.Decrement(u.ofHost, host)
		}
		clear(t.clients)
		delete(u.tasks, key)
	}
	u.admit()
}

// fits reports whether a turn may begin. The caller holds u.mu, here and below.
func (u *turns) fits(t *turn) bool {
	under := u.tasks[t.key]
	if under == nil && u.all > 0 && len(u.tasks) >= u.all {
		return false
	}
	if u.perClient <= 0 || !t.from.Known() || under != nil && under.clients[t.from.Host] > 0 {
		return true
	}
	return u.ofHost[t.from.Host] < u.perClient
}

func (u *turns) tooMany(t *turn) bool {
	return u.all > 0 && len(u.queue) >= patient*u.all || u.perClient > 0 && t.from.Known() && u.waiting[t.from.Host] >= patient*u.perClient
}

func (u *turns) start(t *turn) {
	t.task = u.tasks[t.key]
	if t.task == nil {
		t.task = &task{digest: t.d, clients: make(map[netip.Prefix]int)}
		u.tasks[t.key] = t.task
	}
	if t.task.clients[t.from.Host]++; t.task.clients[t.from.Host] == 1 {
		u.ofHost[t.from.Host]++
	}
	close(t.begun)
}

// leave ends a request's part in its task, if that is still under way.
func (u *turns) leave(t *turn) {
	clients := t.task.clients
	if clients[t.from.Host] == 0 {
		return
	}
	if clients[t.from.Host]--; clients[t.from.Host] > 0 {
		return
	}
	delete(clients, t.from.Host)
	client.Decrement(u.ofHost, t.from.Host)
	if len(clients) == 0 {
		delete(u.tasks, t.key)
	}
}

// admit begins the turns that fit now, in the order in which they came.
func (u *turns) admit() {
	for i := 0; i < len(u.queue); {
		if t := u.queue[i]; u.fits(t) {
			u.unqueue(i)
			u.start(t)
			continue
		}
		i++
	}
}

func (u *turns) unqueue(i int) {
	client.Decrement(u.waiting, u.queue[i].from.Host)
	u.queue = slices.Delete(u.queue, i, i+1)
}
