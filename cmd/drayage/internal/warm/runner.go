package warm

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

// Work is what a Runner has done by others. Its methods may be called from several goroutines.
type Work interface {
	registry
	store
	states
	reporter
}

// registry is where images come from.
type registry interface {
	// Tags lists the tags of a repository.
	Tags(ctx context.Context, repository reference.Image) ([]string, error)
	// Missing is how many bytes of images would have to be downloaded.
	Missing(ctx context.Context, p Pull) (int64, error)
	// Look reports of each image whether it is fresh and complete in the store; one that is not has
	// an error. It downloads no blobs.
	Look(ctx context.Context, p Pull) ([]Outcome, error)
}

// store is what images are kept in.
type store interface {
	// Pull downloads images into the store, and reports the outcome of each. The error is of all of
	// it.
	Pull(ctx context.Context, p Pull) ([]Outcome, error)
	// Complete reports whether an image is complete in the store, with this digest.
	Complete(name string, d digest.Digest) bool
	keeper
}

// keeper deletes images.
type keeper interface {
	// Drop removes images from the store. Missing ones are no error.
	Drop(names []string) error
	// KeepBudget deletes images until the store is within its quota, except those that pinned
	// reports.
	KeepBudget(ctx context.Context, b Budget, pinned func(name string) bool) error
}

// states keeps the state of each group.
type states interface {
	// Load returns a group's state; nil if there is none.
	Load(group string) []byte
	// Save keeps a group's state.
	Save(group string, state []byte) error
}

// reporter reports what happens.
type reporter interface {
	// Tell runs a hook.
	Tell(ctx context.Context, h Hook, e Event) error
	// Ready is called with whether all of a group is complete and fresh.
	Ready(g Group, yes bool) error
	// Log writes a line for the operator.
	Log(format string, args ...any)
}

// Pull is images to bring into the store.
type Pull struct {
	Images    []reference.Image
	Platforms []image.Platform
	Referrers bool
	Limit     *rate.Limiter // of all bytes
	Arrived   func(n int64) // is told of bytes as they come; nil is nobody
}

// Outcome is what became of an image.
type Outcome struct {
	Image   reference.Image
	Digest  digest.Digest
	Fetched int64 // bytes
	Err     error
}

// Event is what hooks are told.
type Event struct {
	Event   string    `json:"event"` // fresh, failed or round
	Group   string    `json:"group"`
	Time    time.Time `json:"time"`
	Image   string    `json:"image,omitempty"`
	Digest  string    `json:"digest,omitempty"`
	Was     string    `json:"was,omitempty"` // the digest before
	Error   string    `json:"error,omitempty"`
	Images  int       `json:"images,omitempty"` // of a round
	Failed  int       `json:"failed,omitempty"`
	Fetched int64     `json:"fetched,omitempty"` // bytes
	Seconds float64   `json:"seconds,omitempty"`
}

// Runner keeps the groups of a Config fresh.
type Runner struct {
	config *Config
	work   Work
	salt   string        // tells machines apart, for jitter
	most   Rate          // that is ever fetched at
	turn   chan struct{} // holds one: groups fetch one after another, and share what may be taken
	now    func() time.Time
}

// New makes a Runner. most bounds all rates; unbound is no bound.
func New(c *Config, w Work, salt string, most Rate) *Runner {
	return &Runner{config: c, work: w, salt: salt, most: most, turn: make(chan struct{}, 1), now: time.Now}
}

// allowed is how fast may be fetched now, and until when.
func (r *Runner) allowed() (Rate, time.Time) {
	now, until := r.config.rate(r.now())
	if now != off && r.most != unbound && (now == unbound || now > r.most) {
		now = r.most
	}
	return now, until
}

// Run keeps the groups fresh until ctx is done: each has a round when one is due, one
// at a time. A round that was missed, while nothing ran or one took too long, is made
// up for once.
func (r *Runner) Run(ctx context.Context) error {
	var groups sync.WaitGroup
	for i := range r.config.Groups {
		groups.Go(func() { r.keep(ctx, &r.config.Groups[i]) })
	}
	groups.Wait()
	return context.Cause(ctx)
}

// Once has one round of each group, or of those that are named, and reports whether all
// images are complete and fresh.
func (r *Runner) Once(ctx context.Context, names []string) (bool, error) {
	for _, n := range names {
		if !slices.ContainsFunc(r.config.Groups, func(g Group) bool { return g.Name == n }) {
			return false, fmt.Errorf("there is no group %q", n)
		}
	}
	all := true
	for i := range r.config.Groups {
		g := &r.config.Groups[i]
		if len(names) > 0 && !slices.Contains(names, g.Name) {
			continue
		}
		state := ReadState(r.work.Load(g.Name), g.Name)
		r.round(ctx, g, &state, r.now())
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		all = all && r.ready(g, &state)
	}
	return all, nil
}

// keep keeps a group fresh.
func (r *Runner) keep(ctx context.Context, g *Group) {
	state := ReadState(r.work.Load(g.Name), g.Name)
	for ctx.Err() == nil {
		now := r.now()
		due := state.Next
		soonest := r.config.next(g, now, r.salt)
		if due.IsZero() || state.Ended.Before(state.Began) || state.Selects != g.selects() {
			due = now // the first one; or the last one was cut short; or the group is another
		}
		if due.After(soonest) { // the schedule has changed, or the clock was set back
			due = soonest
		}
		if !r.wait(ctx, g, &state, due) {
			return
		}
		r.round(ctx, g, &state, r.now())
	}
}

// wait waits until a round is due. Images that have failed are tried again meanwhile.
func (r *Runner) wait(ctx context.Context, g *Group, state *State, due time.Time) bool {
	const first, most = time.Minute, time.Hour // between tries
	pause, tried := first, r.now()
	for {
		now := r.now()
		if soonest := r.config.next(g, now, r.salt); soonest.Before(due) {
			due = soonest // the clock was set back
		}
		if !now.Before(due) {
			return ctx.Err() == nil
		}
		if now.Before(tried) {
			tried = now
		}
		until := due
		if retrying := state.Problem != "" || slices.ContainsFunc(state.Selected(), func(i Image) bool { return i.Error != "" }); retrying {
			again := tried.Add(pause)
			if !now.Before(again) {
				r.again(ctx, g, state)
				pause, tried = min(2*pause, most), r.now()
				continue
			}
			if again.Before(due) {
				until = again
			}
		}
		if !nap(ctx, until.Round(0).Sub(now.Round(0))) { // by the wall clock: machines sleep
			return false
		}
	}
}

// nap waits, and no longer than until the clock is to be looked at again, which may be
// set meanwhile.
func nap(ctx context.Context, left time.Duration) bool {
	timer := time.NewTimer(min(left, time.Minute))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// round looks at all images of a group, and fetches what has changed.
func (r *Runner) round(ctx context.Context, g *Group, state *State, due time.Time) {
	began := r.now()
	state.Began, state.Problem, state.Fetched, state.Pinned = began, "", 0, g.Keep.Pinned
	state.Next = r.config.next(g, laterOf(due, began), r.salt)
	r.save(g, state)
	selected, err := r.selected(ctx, g)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		state.Problem = err.Error()
		r.work.Log("%s: %v", g.Name, err)
	}
	failed := r.fetch(ctx, g, state, selected)
	if ctx.Err() != nil {
		r.save(g, state)
		return
	}
	r.drop(g, state, selected, err == nil)
	r.save(g, state) // what is pinned is known by it
	r.budget(ctx)
	state.Ended, state.Finished, state.Selects = r.now(), began, g.selects()
	if state.Ended.After(state.Next) { // it took longer than until the next one: that is made up for once
		state.Next = state.Ended
	}
	r.save(g, state)
	unknown := ""
	if state.Problem != "" {
		unknown = " and there may be more, which could not be found out,"
	}
	r.work.Log("%s: round of %d images%s has ended after %s: %.1f MiB fetched, %d failed; the next is at %s", g.Name, len(selected), unknown,
		state.Ended.Sub(began).Round(100*time.Millisecond), float64(state.Fetched)/(1<<20), failed, state.Next.In(r.config.location()).Format("Mon 15:04"))
	r.tell(ctx, r.config.Hooks.Round, Event{Event: "round", Group: g.Name, Time: state.Ended, Images: len(selected), Failed: failed,
		Fetched: state.Fetched, Seconds: state.Ended.Sub(began).Seconds(), Error: state.Problem})
	r.ready(g, state)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// again tries what has failed once more: images, or to find out which there are.
func (r *Runner) again(ctx context.Context, g *Group, state *State) {
	var refs []reference.Image
	if state.Problem != "" {
		selected, err := r.selected(ctx, g)
		if ctx.Err() != nil {
			return
		}
		state.Problem = ""
		if err != nil {
			state.Problem = err.Error()
		}
		now := r.now()
		for _, ref := range selected {
			if !state.Fresh(*state.image(ref.Name()), now) {
				refs = append(refs, ref)
			}
		}
	} else {
		for _, i := range state.Selected() {
			if ref, err := reference.Parse(i.Name); err == nil && i.Error != "" {
				refs = append(refs, ref)
			}
		}
	}
	r.fetch(ctx, g, state, refs)
	r.save(g, state)
	r.ready(g, state)
}

// selected are the images that a group selects now. With an error they are those that
// could be found out.
func (r *Runner) selected(ctx context.Context, g *Group) (out []reference.Image, err error) {
	seen := make(map[string]bool)
	add := func(ref reference.Image) {
		if name := ref.Name(); !seen[name] {
			seen[name] = true
			out = append(out, ref)
		}
	}
	for _, s := range g.Images {
		ref, parseErr := reference.Parse(s.Image)
		if parseErr != nil {
			err = errors.Join(err, parseErr)
			continue
		}
		if s.Tags == "" {
			add(ref)
			continue
		}
		tags, tagsErr := r.work.Tags(ctx, ref)
		if tagsErr != nil {
			err = errors.Join(err, fmt.Errorf("the tags of %s: %w", s.Image, tagsErr))
			continue
		}
		for _, t := range s.choose(tags) {
			if one, parseErr := reference.Parse(s.Image + ":" + t); parseErr == nil {
				add(one)
			}
		}
	}
	return out, err
}

// errClosed ends fetching because its window is over.
var errClosed = errors.New("the time to fetch is over")

// fetch brings images up to date, within the windows and at their rates, and returns how
// many have failed. Outside of the windows it only looks.
func (r *Runner) fetch(ctx context.Context, g *Group, state *State, refs []reference.Image) (failed int) {
	left := slices.Clone(refs)
	deadline := r.config.deadline(g, r.now())
	looked, told := false, time.Time{}
	for len(left) > 0 && ctx.Err() == nil {
		allowed, until := r.allowed()
		if allowed == off {
			if !looked {
				looked = true
				left = r.look(ctx, g, state, left)
				r.save(g, state)
				continue
			}
			if !until.Equal(told) {
				told = until
				r.work.Log("%s: %d images wait until %s, when fetching is allowed", g.Name, len(left), until.Format("Mon 15:04"))
			}
			if !nap(ctx, until.Round(0).Sub(r.now().Round(0))) {
				return failed
			}
			continue
		}
		outcomes, err := r.window(ctx, g, left, allowed, deadline)
		closed := errors.Is(err, errClosed)
		if closed && outcomes == nil { // it had not begun
			continue
		}
		again := left[:0:0]
		for _, o := range outcomes {
			if closed && o.Err != nil {
				again = append(again, o.Image) // it goes on when the window opens
				continue
			}
			if r.outcome(ctx, g, state, o) != nil {
				failed++
			}
		}
		if err != nil && !closed {
			if ctx.Err() == nil {
				state.Problem = err.Error()
				r.work.Log("%s: %v", g.Name, err)
			}
			return failed + len(again)
		}
		left = again
	}
	return failed
}

// look notes which images are fresh and complete, and returns the others.
func (r *Runner) look(ctx context.Context, g *Group, state *State, refs []reference.Image) []reference.Image {
	outcomes, err := r.work.Look(ctx, g.pull(refs))
	if err != nil {
		return refs
	}
	var left []reference.Image
	for _, o := range outcomes {
		if o.Err != nil {
			left = append(left, o.Image)
			continue
		}
		_ = r.outcome(ctx, g, state, o) // is none that failed
	}
	return left
}

func (g *Group) pull(refs []reference.Image) Pull {
	p := Pull{Images: refs, Referrers: g.Referrers}
	for _, pf := range g.Platforms {
		p.Platforms = append(p.Platforms, pf.Platform)
	}
	return p
}

// window fetches, when it is the group's turn, until the windows close.
func (r *Runner) window(ctx context.Context, g *Group, refs []reference.Image, allowed Rate, deadline time.Time) ([]Outcome, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := g.pull(refs)
	paced, err := r.pace(inner, cancel, &p, allowed, deadline)
	var outcomes []Outcome
	if err == nil {
		outcomes, err = r.work.Pull(inner, p)
	}
	cause := context.Cause(inner)
	cancel(nil)
	paced.Wait()
	if errors.Is(cause, errClosed) && ctx.Err() == nil {
		err = errClosed
	}
	return outcomes, err
}

// pace sets how fast a pull is: by the windows, as they follow each other, and if there is a
// deadline no faster than it takes to meet it. When fetching isn't allowed any more it ends
// the pull. What it begins ends with ctx.
func (r *Runner) pace(ctx context.Context, end context.CancelCauseFunc, p *Pull, allowed Rate, deadline time.Time) (*sync.WaitGroup, error) {
	const burst = 256 << 10
	p.Limit = rate.NewLimiter(limitOf(allowed), burst)
	group := new(sync.WaitGroup)
	var mu sync.Mutex
	left := int64(math.MaxInt64)
	set := func() time.Time {
		most, until := r.allowed()
		if most == off {
			end(errClosed)
			return until
		}
		mu.Lock()
		defer mu.Unlock()
		p.Limit.SetLimit(limitOf(needed(max(0, left), r.now(), deadline, most)))
		return until
	}
	group.Go(func() {
		const often = 5 * time.Second
		for {
			wait := often
			if until := set(); !until.IsZero() {
				wait = min(wait, max(0, until.Sub(r.now())))
			}
			timer := time.NewTimer(wait + time.Millisecond)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	})
	p.Arrived = func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		left -= n
	}
	if deadline.IsZero() {
		return group, nil
	}
	missing, err := r.work.Missing(ctx, *p)
	if err != nil {
		return group, err
	}
	mu.Lock()
	left = missing
	mu.Unlock()
	set()
	return group, nil
}

func limitOf(r Rate) rate.Limit {
	if r == unbound {
		return rate.Inf
	}
	return rate.Limit(r)
}

// outcome notes what became of an image.
func (r *Runner) outcome(ctx context.Context, g *Group, state *State, o Outcome) error {
	now := r.now()
	i := state.image(o.Image.Name())
	state.Fetched += o.Fetched
	if o.Err != nil {
		if ctx.Err() != nil {
			return nil // it was stopped
		}
		i.Error = o.Err.Error()
		i.Dropped = time.Time{}
		i.Tries++
		if i.Tries == 1 {
			r.tell(ctx, r.config.Hooks.Failed, Event{Event: "failed", Group: g.Name, Time: now, Image: i.Name, Digest: i.Digest, Error: i.Error})
		}
		r.work.Log("%s: %s: %v", g.Name, o.Image, o.Err)
		return o.Err
	}
	was := i.Digest
	if i.fine(o.Digest, now) {
		r.tell(ctx, r.config.Hooks.Fresh, Event{Event: "fresh", Group: g.Name, Time: now, Image: i.Name, Digest: i.Digest, Was: was, Fetched: o.Fetched})
	}
	return nil
}

// drop lets go of images that the group selects no more, after the time that it keeps
// them. When it isn't known what it selects, none go.
func (r *Runner) drop(g *Group, state *State, selected []reference.Image, known bool) {
	if !known {
		return
	}
	wanted := make(map[string]bool)
	for _, ref := range selected {
		wanted[ref.Name()] = true
	}
	now := r.now()
	var gone []string
	state.Images = slices.DeleteFunc(state.Images, func(i Image) bool {
		if wanted[i.Name] {
			return false
		}
		old := !i.Dropped.IsZero() && g.Keep.Age > 0 && now.Sub(i.Dropped) >= time.Duration(g.Keep.Age)
		if old {
			gone = append(gone, i.Name)
		}
		return old
	})
	for n := range state.Images {
		if i := &state.Images[n]; !wanted[i.Name] && i.Dropped.IsZero() {
			i.Dropped, i.Error = now, ""
		}
	}
	gone = slices.DeleteFunc(gone, func(name string) bool { return r.elsewhere(g, name) })
	if len(gone) == 0 {
		return
	}
	if err := r.work.Drop(gone); err != nil {
		r.work.Log("%s: %v", g.Name, err)
	}
}

// elsewhere reports whether another group selects an image.
func (r *Runner) elsewhere(g *Group, name string) bool {
	for _, other := range r.config.Groups {
		if other.Name == g.Name {
			continue
		}
		s := ReadState(r.work.Load(other.Name), other.Name)
		if slices.ContainsFunc(s.Selected(), func(i Image) bool { return i.Name == name }) {
			return true
		}
	}
	return false
}

// budget has the store take no more than it may. Images that groups pin stay.
func (r *Runner) budget(ctx context.Context) {
	if r.config.Budget.High <= 0 {
		return
	}
	var states []State
	for _, g := range r.config.Groups {
		states = append(states, ReadState(r.work.Load(g.Name), g.Name))
	}
	if err := r.work.KeepBudget(ctx, r.config.Budget, Pinned(states)); err != nil && ctx.Err() == nil {
		r.work.Log("keeping the budget: %v", err)
	}
}

// ready tells whether all of a group is complete and fresh.
func (r *Runner) ready(g *Group, state *State) bool {
	now := r.now()
	selected := state.Selected()
	yes := len(selected) > 0 && state.Problem == "" && !slices.ContainsFunc(selected, func(i Image) bool {
		return !state.Fresh(i, now) || !r.work.Complete(i.Name, digest.Digest(i.Digest))
	})
	if err := r.work.Ready(*g, yes); err != nil {
		r.work.Log("%s: %v", g.Name, err)
	}
	return yes
}

func (r *Runner) save(g *Group, state *State) {
	if err := r.work.Save(g.Name, state.marshal()); err != nil {
		r.work.Log("%s: %v", g.Name, err)
	}
}

// tell runs hooks. One that fails is told, and no more.
func (r *Runner) tell(ctx context.Context, hooks []Hook, e Event) {
	for _, h := range hooks {
		if err := r.work.Tell(ctx, h, e); err != nil && ctx.Err() == nil {
			r.work.Log("%s: the hook for %s: %v", e.Group, e.Event, err)
		}
	}
}

// Pinned reports of images whether a group keeps them whatever a budget says.
func Pinned(states []State) func(name string) bool {
	pinned := make(map[string]bool)
	for _, s := range states {
		for _, i := range s.Selected() {
			pinned[i.Name] = pinned[i.Name] || s.Pinned
		}
	}
	return func(name string) bool { return pinned[name] }
}

// Unlooked are the images that a group's file names and that were never looked at.
func (g *Group) Unlooked(s State) []string {
	var out []string
	for _, sel := range g.Images {
		ref, err := reference.Parse(sel.Image)
		if err != nil || sel.Tags != "" {
			continue
		}
		if !slices.ContainsFunc(s.Selected(), func(i Image) bool { return i.Name == ref.Name() }) {
			out = append(out, ref.String())
		}
	}
	return out
}
