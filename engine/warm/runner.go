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

// Work is what a Runner has done by others. Its methods may be called from several
// goroutines.
type Work interface {
	// Tags lists the tags of a repository.
	Tags(ctx context.Context, repository reference.Image) ([]string, error)
	// Missing is how many bytes of images would have to be fetched.
	Missing(ctx context.Context, p Pull) (int64, error)
	// Pull brings images into the store, and tells what became of each. The error is of
	// all of it.
	Pull(ctx context.Context, p Pull) ([]Outcome, error)
	// Drop takes images out of the store. Those that are not there are no error.
	Drop(names []string) error
	// KeepBudget has the store take no more than it may, without the images that pinned
	// reports.
	KeepBudget(ctx context.Context, b Budget, pinned func(name string) bool) error
	// Load and Save keep a group's state.
	Load(group string) []byte
	Save(group string, state []byte) error
	// Tell runs a hook.
	Tell(ctx context.Context, h Hook, e Event) error
	// Ready is told whether all of a group is complete and fresh.
	Ready(g Group, yes bool) error
	// Log tells people of something.
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
	salt   string // tells machines apart, for jitter
}

// New makes a Runner.
func New(c *Config, w Work, salt string) *Runner { return &Runner{c, w, salt} }

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
		r.round(ctx, g, &state, time.Now())
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
		now := time.Now()
		due := state.Next
		soonest := r.config.next(g, now, r.salt)
		if due.IsZero() { // the first one, at once
			due = now
		}
		if due.After(soonest) { // the schedule has changed, or the clock was set back
			due = soonest
		}
		if !r.wait(ctx, g, &state, due) {
			return
		}
		r.round(ctx, g, &state, time.Now())
	}
}

// wait waits until a round is due. Images that have failed are tried again meanwhile.
func (r *Runner) wait(ctx context.Context, g *Group, state *State, due time.Time) bool {
	const first, most = time.Minute, time.Hour // between tries
	pause := first
	for {
		until := due
		retrying := slices.ContainsFunc(state.Selected(), func(i Image) bool { return i.Error != "" })
		if again := time.Now().Add(pause); retrying && again.Before(due) {
			until = again
		}
		if !sleep(ctx, until) {
			return false
		}
		if !time.Now().Before(due) {
			return true
		}
		r.again(ctx, g, state)
		pause = min(2*pause, most)
	}
}

// sleep waits until a moment of the clock, which may be set meanwhile.
func sleep(ctx context.Context, until time.Time) bool {
	const longest = time.Minute // after which the clock is looked at again
	for {
		left := until.Round(0).Sub(time.Now().Round(0)) // by the wall clock: machines sleep
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(left, longest))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// round looks at all images of a group, and fetches what has changed.
func (r *Runner) round(ctx context.Context, g *Group, state *State, due time.Time) {
	began := time.Now()
	state.Began, state.Problem, state.Fetched = began, "", 0
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
	r.budget(ctx)
	state.Ended = time.Now()
	if state.Ended.After(state.Next) { // it took longer than until the next one: that is made up for once
		state.Next = state.Ended
	}
	r.save(g, state)
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

// again tries the images once more that have failed.
func (r *Runner) again(ctx context.Context, g *Group, state *State) {
	var refs []reference.Image
	for _, i := range state.Selected() {
		if ref, err := reference.Parse(i.Name); err == nil && i.Error != "" {
			refs = append(refs, ref)
		}
	}
	if len(refs) > 0 {
		r.fetch(ctx, g, state, refs)
		r.save(g, state)
		r.ready(g, state)
	}
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
// many have failed.
func (r *Runner) fetch(ctx context.Context, g *Group, state *State, refs []reference.Image) (failed int) {
	left := slices.Clone(refs)
	deadline := r.config.deadline(g, time.Now())
	for len(left) > 0 && ctx.Err() == nil {
		allowed, until := r.config.rate(time.Now())
		if allowed == Off {
			r.work.Log("%s: waiting until %s, when fetching is allowed", g.Name, until.Format("Mon 15:04"))
			if !sleep(ctx, until) {
				return failed
			}
			continue
		}
		outcomes, err := r.window(ctx, g, left, allowed, until, deadline)
		again := left[:0:0]
		for _, o := range outcomes {
			if errors.Is(err, errClosed) && o.Err != nil {
				again = append(again, o.Image) // it goes on when the window opens
				continue
			}
			if r.outcome(ctx, g, state, o) != nil {
				failed++
			}
		}
		if err != nil && !errors.Is(err, errClosed) {
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

// window fetches at a rate until a moment, the zero time for ever.
func (r *Runner) window(ctx context.Context, g *Group, refs []reference.Image, allowed Rate, until, deadline time.Time) ([]Outcome, error) {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !until.IsZero() {
		timer := time.AfterFunc(time.Until(until), func() {
			if now, _ := r.config.rate(time.Now()); now == Off {
				cancel(errClosed)
			}
		})
		defer timer.Stop()
	}
	p := Pull{Images: refs, Referrers: g.Referrers}
	for _, pf := range g.Platforms {
		p.Platforms = append(p.Platforms, pf.Platform)
	}
	paced, err := r.pace(inner, &p, allowed, deadline)
	if err != nil {
		return nil, err
	}
	outcomes, err := r.work.Pull(inner, p)
	cancel(nil)
	paced.Wait()
	if cause := context.Cause(inner); errors.Is(cause, errClosed) && ctx.Err() == nil {
		err = errClosed
	}
	return outcomes, err
}

// pace sets how fast a pull is: by the window, and if there is a deadline no faster than
// it takes to meet it. What it begins ends with ctx.
func (r *Runner) pace(ctx context.Context, p *Pull, allowed Rate, deadline time.Time) (*sync.WaitGroup, error) {
	const burst = 256 << 10
	p.Limit = rate.NewLimiter(limitOf(allowed), burst)
	var group sync.WaitGroup
	left := int64(math.MaxInt64)
	if !deadline.IsZero() {
		missing, err := r.work.Missing(ctx, *p)
		if err != nil {
			return nil, err
		}
		left = missing
	}
	var mu sync.Mutex
	p.Arrived = func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		left -= n
	}
	set := func() {
		most, _ := r.config.rate(time.Now()) // windows may follow each other
		if most == Off {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		p.Limit.SetLimit(limitOf(needed(max(0, left), time.Now(), deadline, most)))
	}
	set()
	group.Go(func() {
		const often = 5 * time.Second
		tick := time.NewTicker(often)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				set()
			case <-ctx.Done():
				return
			}
		}
	})
	return &group, nil
}

func limitOf(r Rate) rate.Limit {
	if r == Unbound {
		return rate.Inf
	}
	return rate.Limit(r)
}

// outcome notes what became of an image.
func (r *Runner) outcome(ctx context.Context, g *Group, state *State, o Outcome) error {
	now := time.Now()
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
	now := time.Now()
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
	pinned := make(map[string]bool)
	for _, g := range r.config.Groups {
		if g.Keep.Pinned {
			s := ReadState(r.work.Load(g.Name), g.Name)
			for _, i := range s.Selected() {
				pinned[i.Name] = true
			}
		}
	}
	if err := r.work.KeepBudget(ctx, r.config.Budget, func(name string) bool { return pinned[name] }); err != nil && ctx.Err() == nil {
		r.work.Log("keeping the budget: %v", err)
	}
}

// ready tells whether all of a group is complete and fresh.
func (r *Runner) ready(g *Group, state *State) bool {
	now := time.Now()
	selected := state.Selected()
	yes := len(selected) > 0 && state.Problem == "" && !slices.ContainsFunc(selected, func(i Image) bool { return !state.Fresh(i, now) })
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
