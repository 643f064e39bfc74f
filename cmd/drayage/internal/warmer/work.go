// Package warmer does the work of package warm by the engine and the store, and reports what state
// groups are in.
package warmer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/phrase"
	"drayage/cmd/drayage/internal/warm"
	"drayage/engine"
	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// Engine is what a warm.Runner has done by others.
type Engine struct {
	Net         *network.Flags
	Quiet       bool // nothing is logged
	Limits      engine.Limits
	GiveUp      time.Duration // without progress
	Foreign     bool          // foreign layers are downloaded, too
	Checkpoint  time.Duration // 0 means the engine's
	Store       *blobstore.Store
	Display     *display.Display
	Credentials *credential.Set

	mu sync.Mutex // guards log lines
}

// client makes a client for one piece of work, so that each may have its own rate.
func (w *Engine) client(refs []reference.Image, observer event.Observer, change func(*registry.Options)) (*registry.Client, error) {
	return w.Net.NewClient(w.Credentials, refs, engine.Retry{Patience: w.GiveUp}, observer, w.Display, func(r *registry.Options) {
		r.PerHost = w.Limits.PerHost
		change(r)
	})
}

// Tags implements warm.Work.
func (w *Engine) Tags(ctx context.Context, repository reference.Image) ([]string, error) {
	c, err := w.client([]reference.Image{repository}, w.Display, func(*registry.Options) {})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Tags(ctx, repository)
}

// options are the engine's for a pull.
func (w *Engine) options(p warm.Pull, c *registry.Client, observer event.Observer) engine.Options {
	platforms := p.Platforms
	if len(platforms) == 0 {
		platforms = []image.Platform{image.DefaultPlatform()}
	}
	return engine.Options{
		Store: w.Store, Registry: c, Observer: observer, Retry: engine.Retry{Patience: w.GiveUp}, KeepGoing: true,
		Platform: platforms[0], Others: platforms[1:], Referrers: p.Referrers, ForeignLayers: w.Foreign,
		Limits: w.Limits, PeerStall: w.Net.Stall / 5, Checkpoint: w.Checkpoint,
	}
}

// Missing implements warm.Work.
func (w *Engine) Missing(ctx context.Context, p warm.Pull) (int64, error) {
	c, err := w.client(p.Images, w.Display, func(*registry.Options) {})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_, plan, err := engine.Plan(ctx, w.options(p, c, w.Display), p.Images)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, b := range plan.Blobs() {
		if !b.Here {
			n += max(0, b.Size-w.Store.Partial(b.Digest))
		}
	}
	return n, nil
}

// Look implements warm.Work.
func (w *Engine) Look(ctx context.Context, p warm.Pull) ([]warm.Outcome, error) {
	c, err := w.client(p.Images, w.Display, func(*registry.Options) {})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	results, _, err := engine.Plan(ctx, w.options(p, c, w.Display), p.Images)
	if err != nil {
		return nil, err
	}
	var out []warm.Outcome
	for _, r := range results {
		o := warm.Outcome{Image: r.Ref, Err: r.Err}
		if r.Err == nil {
			o.Digest = r.Image.Target().Digest
			if root, err := w.Store.Root(r.Ref.Name()); err != nil || root.Target.Digest != o.Digest || !w.Complete(r.Ref.Name(), o.Digest) {
				o.Err = errors.New("not downloaded yet")
			}
			for _, d := range r.Image.Blobs() {
				if has, err := w.Store.Has(d); err != nil || !has {
					o.Err = errors.New("not downloaded yet")
				}
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// Complete implements warm.Work.
func (w *Engine) Complete(name string, d digest.Digest) bool {
	return whyIncomplete(w.Store, name, d.String()) == ""
}

// arrivals counts bytes as they arrive.
type arrivals func(int64)

// Observe implements event.Observer.
func (a arrivals) Observe(e event.Event) {
	if p, ok := e.(event.Progress); ok {
		a(p.N)
	}
}

// Pull implements warm.Work.
func (w *Engine) Pull(ctx context.Context, p warm.Pull) ([]warm.Outcome, error) {
	observer := event.Observers{w.Display}
	if p.Arrived != nil {
		observer = append(observer, arrivals(p.Arrived))
	}
	c, err := w.client(p.Images, observer, func(r *registry.Options) { r.Limit = p.Limit }) // within which --limit-rate is
	if err != nil {
		return nil, err
	}
	defer c.Close()
	results, err := engine.Pull(ctx, w.options(p, c, observer), p.Images)
	out := make([]warm.Outcome, 0, len(results))
	for _, r := range results {
		o := warm.Outcome{Image: r.Ref, Fetched: r.Fetched, Err: r.Err}
		if r.Image != nil {
			o.Digest = r.Image.Target().Digest
		}
		out = append(out, o)
	}
	return out, err
}

// Drop implements warm.Work.
func (w *Engine) Drop(names []string) error {
	for _, name := range names {
		if err := w.Store.Remove(name); err != nil && !errors.Is(err, blobstore.ErrNotFound) {
			return err
		}
	}
	return nil
}

// KeepBudget implements warm.Work.
func (w *Engine) KeepBudget(ctx context.Context, b warm.Budget, pinned func(string) bool) error {
	u, err := w.Store.Usage(ctx)
	if err != nil || u.Bytes+u.PartialSize <= b.High {
		return err
	}
	g, err := w.Store.FindGarbage(ctx, blobstore.Keep{Budget: b.Low, Pinned: pinned})
	if err != nil {
		return err
	}
	if err := w.Store.Sweep(ctx, g); err != nil {
		return err
	}
	w.Log("deleted %s and %s: the store was over its disk quota", phrase.Count(len(g.Images), "image"), phrase.Count(len(g.Blobs), "blob"))
	return nil
}

// Load implements warm.Work.
func (w *Engine) Load(group string) []byte { return w.Store.Note(stateFile(group)) }

// Save implements warm.Work.
func (w *Engine) Save(group string, state []byte) error {
	return w.Store.KeepNote(stateFile(group), state)
}

// Ready implements warm.Work.
func (w *Engine) Ready(g warm.Group, yes bool) error {
	if g.ReadyFile == "" {
		return nil
	}
	if err := durable.CheckLinks(filepath.Dir(g.ReadyFile)); err != nil {
		return err
	}
	path, err := durable.Follow(g.ReadyFile)
	if err != nil {
		return err
	}
	if !yes {
		return durable.Withdraw(path)
	}
	const mode, dirMode = 0o644, 0o755
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	return durable.Rewrite(path, mode, func(w io.Writer) error {
		_, err := io.WriteString(w, time.Now().UTC().Format(time.RFC3339)+"\n")
		return err
	})
}

// Log implements warm.Work.
func (w *Engine) Log(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.Quiet {
		w.Display.Say("", fmt.Sprintf("%s %s", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...)))
	}
}
