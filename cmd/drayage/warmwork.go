package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/build"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/warm"
	"drayage/engine"
	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// warmWork is what a Runner has done by the engine. It is a warm.Work.
type warmWork struct {
	net         *network.Flags
	quiet       bool // nothing is logged
	limits      engine.Limits
	giveUp      time.Duration
	foreign     bool
	checkpoint  time.Duration // 0 means the engine's
	store       *blobstore.Store
	display     *display.Display
	credentials *credential.Set

	mu sync.Mutex // guards what is written to people
}

// client makes a client for one piece of work, so that each may have its own rate.
func (w *warmWork) client(refs []reference.Image, observer event.Observer, change func(*registry.Options)) (*registry.Client, error) {
	return w.net.NewClient(w.credentials, refs, engine.Retry{Patience: w.giveUp}, observer, w.display, func(r *registry.Options) {
		r.PerHost = w.limits.PerHost
		change(r)
	})
}

// Tags implements warm.Work.
func (w *warmWork) Tags(ctx context.Context, repository reference.Image) ([]string, error) {
	c, err := w.client([]reference.Image{repository}, w.display, func(*registry.Options) {})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Tags(ctx, repository)
}

// options are the engine's for a pull.
func (w *warmWork) options(p warm.Pull, c *registry.Client, observer event.Observer) engine.Options {
	platforms := p.Platforms
	if len(platforms) == 0 {
		platforms = []image.Platform{image.DefaultPlatform()}
	}
	return engine.Options{
		Store: w.store, Registry: c, Observer: observer, Retry: engine.Retry{Patience: w.giveUp}, KeepGoing: true,
		Platform: platforms[0], Others: platforms[1:], Referrers: p.Referrers, ForeignLayers: w.foreign,
		Limits: w.limits, PeerStall: w.net.Stall / 5, Checkpoint: w.checkpoint,
	}
}

// Missing implements warm.Work.
func (w *warmWork) Missing(ctx context.Context, p warm.Pull) (int64, error) {
	c, err := w.client(p.Images, w.display, func(*registry.Options) {})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_, plan, err := engine.Plan(ctx, w.options(p, c, w.display), p.Images)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, b := range plan.Blobs() {
		if !b.Here {
			n += max(0, b.Size-w.store.Partial(b.Digest))
		}
	}
	return n, nil
}

// Look implements warm.Work.
func (w *warmWork) Look(ctx context.Context, p warm.Pull) ([]warm.Outcome, error) {
	c, err := w.client(p.Images, w.display, func(*registry.Options) {})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	results, _, err := engine.Plan(ctx, w.options(p, c, w.display), p.Images)
	if err != nil {
		return nil, err
	}
	var out []warm.Outcome
	for _, r := range results {
		o := warm.Outcome{Image: r.Ref, Err: r.Err}
		if r.Err == nil {
			o.Digest = r.Image.Target().Digest
			if root, err := w.store.Root(r.Ref.Name()); err != nil || root.Target.Digest != o.Digest || !w.Complete(r.Ref.Name(), o.Digest) {
				o.Err = errors.New("it is to be fetched")
			}
			for _, d := range r.Image.Blobs() {
				if has, err := w.store.Has(d); err != nil || !has {
					o.Err = errors.New("it is to be fetched")
				}
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// Complete implements warm.Work.
func (w *warmWork) Complete(name string, d digest.Digest) bool {
	return whyIncomplete(w.store, name, d.String()) == ""
}

// arrivals tells a pull's pace of bytes.
type arrivals func(int64)

// Observe implements event.Observer.
func (a arrivals) Observe(e event.Event) {
	if p, ok := e.(event.Progress); ok {
		a(p.N)
	}
}

// Pull implements warm.Work.
func (w *warmWork) Pull(ctx context.Context, p warm.Pull) ([]warm.Outcome, error) {
	observer := event.Observers{w.display}
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
func (w *warmWork) Drop(names []string) error {
	for _, name := range names {
		if err := w.store.Remove(name); err != nil && !errors.Is(err, blobstore.ErrNotFound) {
			return err
		}
	}
	return nil
}

// KeepBudget implements warm.Work.
func (w *warmWork) KeepBudget(ctx context.Context, b warm.Budget, pinned func(string) bool) error {
	u, err := w.store.Usage(ctx)
	if err != nil || u.Bytes+u.PartialSize <= b.High {
		return err
	}
	g, err := w.store.FindGarbage(ctx, blobstore.Keep{Budget: b.Low, Pinned: pinned})
	if err != nil {
		return err
	}
	if err := w.store.Sweep(ctx, g); err != nil {
		return err
	}
	w.Log("swept %s and %s: the store was over its budget", count(len(g.Images), "image"), count(len(g.Blobs), "blob"))
	return nil
}

// Load implements warm.Work.
func (w *warmWork) Load(group string) []byte { return w.store.Note(warmNote(group)) }

// Save implements warm.Work.
func (w *warmWork) Save(group string, state []byte) error {
	return w.store.KeepNote(warmNote(group), state)
}

// Tell implements warm.Work.
func (w *warmWork) Tell(ctx context.Context, h warm.Hook, e warm.Event) error {
	const patience = time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if h.URL != "" {
		return post(ctx, h.URL, raw)
	}
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Stdin = bytes.NewReader(raw)
	cmd.WaitDelay = time.Second // what it has started may go on, and hold its output
	ownGroup(cmd)
	var out headAndTail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "DRAYAGE_EVENT="+e.Event, "DRAYAGE_GROUP="+e.Group, "DRAYAGE_IMAGE="+e.Image, "DRAYAGE_DIGEST="+e.Digest)
	switch err := cmd.Run(); {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no result within %s: %s", h.Command[0], patience, w.hookWords(&out))
	default:
		return fmt.Errorf("%s: %w: %s", h.Command[0], err, w.hookWords(&out))
	}
}

// hookWords are what a hook that failed has written, for a log: its beginning and end, each in one
// line, without what is secret.
func (w *warmWork) hookWords(out *headAndTail) string {
	head, tail := out.parts()
	line := hookSecrets(w.net.Auth).Line
	if tail == "" {
		return line(head)
	}
	return line(head) + " … " + line(tail)
}

func post(ctx context.Context, url string, raw []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return errors.New("the url is malformed") // it may have a secret
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "drayage/"+build.Version())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("POST to %s: %w", req.URL.Host, errors.Unwrap(err))
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("POST to %s: %s", req.URL.Host, printable.Line(resp.Status))
	}
	return nil
}

// Ready implements warm.Work.
func (w *warmWork) Ready(g warm.Group, yes bool) error {
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
	const mode, folderMode = 0o644, 0o755
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return err
	}
	return durable.Rewrite(path, mode, func(w io.Writer) error {
		_, err := io.WriteString(w, time.Now().UTC().Format(time.RFC3339)+"\n")
		return err
	})
}

// Log implements warm.Work.
func (w *warmWork) Log(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.quiet {
		w.display.Say("", fmt.Sprintf("%s %s", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...)))
	}
}
