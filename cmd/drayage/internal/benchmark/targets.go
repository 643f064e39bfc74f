package benchmark

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"drayage/bench"
	"drayage/blobstore"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/stores"
	"drayage/engine"
	"drayage/engine/event"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// targets are the targets of a benchmark, with the clients and the store that they use.
type targets struct {
	targets     []*bench.Target
	concurrency int // of a replay's pull
	clients     []*registry.Client
	lease       *blobstore.Lease
}

// Close closes what the targets use.
func (t *targets) Close() error {
	for _, client := range t.clients {
		client.Close()
	}
	if t.lease == nil {
		return nil
	}
	return t.lease.Close()
}

// findTargets resolves the images, or reads the replay. Its result must be closed.
func findTargets(ctx context.Context, o *Options, args []string, observer event.Observer, d *display.Display) (_ *targets, err error) {
	t := new(targets)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	connections, err := o.numbers()
	if err != nil {
		return nil, err
	}
	versions, err := httpVersions(o.http)
	if err != nil {
		return nil, err
	}
	images, err := named(o, args)
	if err != nil {
		return nil, err
	}
	reads, err := o.reads(connections, len(images.refs)*len(versions))
	if err != nil {
		return nil, err
	}
	credentials, err := o.net.Credentials(images.refs)
	if err != nil {
		return nil, err
	}
	if err := t.open(o.store); err != nil {
		return nil, err
	}
	perHost := slices.Max(connections)
	if images.replay != nil {
		t.concurrency = images.replay.concurrency()
		perHost = max(perHost, t.concurrency)
	}
	for _, version := range versions {
		const patience = 30 * time.Second
		client, err := o.net.NewClient(credentials, images.refs, engine.Retry{Patience: patience}, observer, d, func(r *registry.Options) {
			r.PerHost, r.HTTP2, r.NeverWait = perHost, version == "2", true
		})
		if err != nil {
			return nil, err
		}
		t.clients = append(t.clients, client)
		found, err := images.targets(ctx, o, client, reads, t.lease)
		if err != nil {
			return nil, err
		}
		t.add(found, version, len(versions) > 1)
	}
	if len(versions) > 1 { // others are compared with the first target
		slices.SortStableFunc(t.targets, func(a, b *bench.Target) int { return cmp.Compare(a.HTTP, b.HTTP) })
	}
	return t, nil
}

// open opens the store to write to, if there is one.
func (t *targets) open(store string) error {
	if store == "" {
		return nil
	}
	s, err := blobstore.Open(store)
	if err != nil {
		return err
	}
	t.lease, err = s.Lease()
	return err
}

// add adds targets whose client offers a version of HTTP.
func (t *targets) add(targets []*bench.Target, version string, named bool) {
	for _, x := range targets {
		if named {
			x.Name += " over HTTP/" + version
		}
		if version == "2" {
			x.HTTP = version
		}
	}
	t.targets = append(t.targets, targets...)
}

// options are what to measure. For a replay the bounds default to what it takes.
func (t *targets) options(o *Options) (bench.Options, error) {
	connections, err := o.numbers()
	if err != nil {
		return bench.Options{}, err
	}
	b := bench.Options{Connections: connections, Rate: o.rate, Rounds: o.rounds, Duration: o.duration, Bytes: int64(o.bytes), WarmUp: o.warmUp}
	if o.replay == "" {
		return b, nil
	}
	b.WarmUp = 0
	if !o.Given("connections") {
		b.Connections = []int{min(t.concurrency, maxConnections)}
	}
	var bytes int64
	var within time.Duration
	for _, x := range t.targets {
		n, d := x.Reads()
		bytes, within = bytes+n, within+d
	}
	times := o.rounds * len(b.Connections)
	if !o.Given("bytes") {
		b.Bytes = bytes * int64(times)
	}
	if !o.Given("duration") {
		const tail = time.Minute // for reads in flight at the end
		b.Duration = (time.Duration(times) * (within*5/4 + tail)).Round(time.Second)
	}
	return b, nil
}

// selection are what to read: images by their names, or the blobs of a recorded pull.
type selection struct {
	refs   []reference.Image
	replay *replay
}

func named(o *Options, args []string) (*selection, error) {
	if o.replay == "" {
		var words []images.Word
		for _, a := range args {
			words = append(words, images.Word{Text: a})
		}
		refs, bad := images.ParseNames(words)
		if len(bad) > 0 {
			return nil, status.Misuse(bad[0])
		}
		return &selection{refs: refs}, nil
	}
	r, err := readReplay(o.replay, o.from)
	if err != nil {
		return nil, err
	}
	return &selection{refs: r.refs(), replay: r}, nil
}

// targets makes a target of each image for each of the reads.
func (x *selection) targets(ctx context.Context, o *Options, client *registry.Client, reads []readOptions, lease *blobstore.Lease) ([]*bench.Target, error) {
	if x.replay != nil {
		return x.replay.targets(client, bench.TargetOptions{Verify: o.verify, Store: lease})
	}
	platform, err := o.platform.Platform()
	if err != nil {
		return nil, err
	}
	store, err := stores.Empty()
	if err != nil {
		return nil, err
	}
	results, _, err := engine.Plan(ctx, engine.Options{
		Store: store, Registry: client, Platform: platform, Limits: engine.Limits{Jobs: 1, PerHost: 1},
	}, x.refs)
	if err != nil {
		return nil, err
	}
	if failed := engine.Failures(results); len(failed) > 0 {
		return nil, status.Failures(failed)
	}
	var out []*bench.Target
	for _, r := range results {
		source := func(d digest.Digest) *registry.Blob { return client.Blob(r.Ref, d) }
		for _, read := range reads {
			options := read.TargetOptions
			options.Store = lease
			t, err := bench.NewTarget(r.Ref.String()+read.suffix, r.Image.Target().Digest, r.Image.Main().Layers, source, options)
			if err != nil {
				return nil, err
			}
			out = append(out, t)
		}
	}
	return out, nil
}
