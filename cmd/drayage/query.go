package main

import (
	"context"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/platform"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/spf13/pflag"
)

// query is what commands have that ask about one image and change nothing.
type query struct {
	net      network.Flags
	show     display.Flags
	platform platform.Flag
	json     bool
}

func (q *query) add(f *pflag.FlagSet) {
	q.platform.Add(f, "platform to select from a multi-platform image")
	f.BoolVar(&q.json, "json", false, "print JSON")
	q.net.Add(f)
	q.show.Add(f)
}

// clientMaker makes a client by the command line's flags, but for what change changes.
type clientMaker = func(change func(*registry.Options)) (*registry.Client, error)

// ask finds out what a name stands for, and calls then with it. What the store has
// needn't be fetched.
func (q *query) ask(ctx context.Context, s process.Streams, store *blobstore.Store, name string, then func(clientMaker, engine.Result) error) error {
	ref, err := reference.Parse(name)
	if err != nil {
		return status.Misuse(err)
	}
	refs := []reference.Image{ref}
	platform, err := q.platform.Platform()
	if err != nil {
		return err
	}
	credentials, err := q.net.Credentials(refs)
	if err != nil {
		return err
	}
	display, err := q.show.Start(s)
	if err != nil {
		return err
	}
	defer display.Close()
	policy := engine.Retry{Patience: time.Minute} // somebody waits
	makeClient := func(change func(*registry.Options)) (*registry.Client, error) {
		return q.net.NewClient(credentials, refs, policy, display, display, change)
	}
	client, err := makeClient(func(o *registry.Options) { o.PerHost = 2 })
	if err != nil {
		return err
	}
	defer client.Close()
	results, _, err := engine.Plan(ctx, engine.Options{
		Store: store, Registry: client, Platform: platform, Observer: display, Retry: policy, Limits: engine.Limits{Jobs: 1, PerHost: 1},
	}, refs)
	if err != nil {
		return err
	}
	if failed := engine.Failures(results); len(failed) > 0 {
		return failed[0]
	}
	return then(makeClient, results[0])
}
