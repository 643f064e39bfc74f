package warm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/warm"
	"drayage/engine/limitstest"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

func load(t *testing.T, text string) *warm.Config {
	t.Helper()
	c, err := warm.Load(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheExampleIsRight(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "examples", "warm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c := load(t, string(raw))
	if len(c.Groups) != 2 || c.Budget.Low >= c.Budget.High || len(c.Windows.List) != 1 || c.Windows.List[0].Rate != 50<<20 || c.Windows.Else != warm.Off {
		t.Errorf("%+v", c)
	}
	if g := c.Groups[0]; len(g.Images) != 2 || g.Images[1].Newest != 3 || !g.Keep.Pinned || g.Keep.Age != warm.Duration(30*24*time.Hour) {
		t.Errorf("%+v", g)
	}
}

// The schema has all fields, and the example's.
func TestTheSchemaHasAllFields(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(warm.Schema), &schema); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"store", "budget", "timezone", "windows", "hooks", "groups", "schedule", "every", "jitter", "finish_by", "keep", "ready_file", "platforms", "referrers", "newest", "exclude"} {
		if !strings.Contains(warm.Schema, `"`+field+`"`) {
			t.Errorf("it has no %q", field)
		}
	}
}

// What is wrong is told with its line.
func TestWrongFiles(t *testing.T) {
	const group = "groups:\n- name: a\n  every: 1h\n  images: [alpine]\n"
	for text, want := range map[string]string{
		"":                                         "empty",
		"[]":                                       "line 1",
		"groups: []":                               "no groups",
		"grups: []\n" + group:                      "line 1: unknown field grups",
		group + "  evry: 2h\n":                     "line 5: unknown field evry",
		group + "windows: {25:00-26:00: 1M}":       "line 5: windows",
		group + "windows: {22:00-06:00: fast}\n":   `line 5: windows: invalid rate "fast"`,
		group + "budget: much\n":                   "line 5: budget",
		group + "budget: {high: 1G, low: 2G}\n":    "line 5: budget",
		group + "budget: {high: 1G}\n":             "line 5: budget",
		group + "timezone: Nowhere/City\n":         "line 5: timezone",
		group + "hooks: {fresh: [{}]}\n":           "hooks",
		group + "---\n" + group:                    "more than one document",
		"groups:\n- name: a\n  images: [alpine]\n": "schedule or every is required",
		"groups:\n- name: a\n  images: [alpine]\n  every: 1h\n  schedule: '0 * * * *'\n":                 "exclude each other",
		"groups:\n- name: a\n  images: [alpine]\n  every: 1s\n":                                          "at least a minute",
		"groups:\n- name: a\n  images: [alpine]\n  schedule: 'often'\n":                                  "line 4: schedule",
		group + "windows: {else: off}\n":                                                                 "nothing could be downloaded",
		group + "windows: {}\n":                                                                          "nothing could be downloaded",
		group + "windows: {22:00-06:00: off, else: off}\n":                                               "nothing could be downloaded",
		"groups:\n- name: a\n  images: [alpine]\n  schedule: '0 0 31 2 *'\n":                             "never comes",
		"groups:\n- name: a\n  every: 1h\n  images: [UPPER]\n":                                           "line 4",
		"groups:\n- name: a\n  every: 1h\n  images: []\n":                                                "no images",
		"groups:\n- name: a\n  every: 1h\n  images: [{repository: a, newest: 0}]\n":                      "line 4: newest",
		"groups:\n- name: a\n  every: 1h\n  images: [{repository: 'a:1'}]\n":                             "without a tag",
		"groups:\n- name: a\n  every: 1h\n  images: [{repo: a}]\n":                                       "line 4: unknown field repo",
		"groups:\n- name: a\n  every: 1h\n  images: [alpine]\n  platforms: [a/b/c/d/e]\n":                "line 5",
		"groups:\n- name: a\n  every: 1h\n  images: [alpine]\n  finish_by: 5am\n":                        "line 5",
		"groups:\n- name: a\n  every: 1h\n  images: [alpine]\n- name: a\n  every: 1h\n  images: [b]\n":   "defined twice",
		"groups:\n- name: a b\n  every: 1h\n  images: [alpine]\n":                                        "name",
		"groups:\n- name: a\n  every: 1h\n  images: ['alpine@sha256:" + strings.Repeat("a", 64) + "']\n": "line 4",
	} {
		_, err := warm.Load(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q:\n %v, want %q", text, err, want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "docs", "examples", "warm.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(raw))
	f.Add("groups:\n- name: a\n  every: 1d\n  images: [alpine, {repository: b, tags: 'v*'}]\nwindows: {22:00-06:00: off, else: full}\nbudget: 1G\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := warm.Load(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, g := range c.Groups { // what was taken has rounds
			now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			if next := c.Next(g.Name, now); !next.IsZero() && !next.After(now) {
				t.Errorf("the next round of %q is at %s", g.Name, next)
			}
		}
	})
}

// fake is a registry's and a store's part, without either.
type fake struct {
	mu      sync.Mutex
	tags    map[string][]string
	digests map[string]string // by name; what changes is fetched
	broken  map[string]bool
	takes   time.Duration // a pull
	now     func() time.Time

	unchanged map[string]bool // what Look finds fresh
	states    map[string][]byte
	pulls     []pull
	events    []warm.Event
	drops     []string
	ready     map[string]bool
	log       []string
	ended     []time.Time // pulls
}

type pull struct {
	at     time.Time
	images []string
	rate   float64
}

func newFake() *fake {
	return &fake{now: time.Now, tags: map[string][]string{}, digests: map[string]string{}, broken: map[string]bool{}, states: map[string][]byte{}, ready: map[string]bool{}}
}

func (f *fake) Tags(_ context.Context, r reference.Image) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken[r.Repository()] {
		return nil, errors.New("no tags today")
	}
	return f.tags[r.Repository()], nil
}

func (f *fake) Missing(context.Context, warm.Pull) (int64, error) { return 3600 << 20, nil }

func (f *fake) Pull(ctx context.Context, p warm.Pull) ([]warm.Outcome, error) {
	f.mu.Lock()
	one := pull{at: f.now(), rate: float64(p.Limit.Limit())}
	for _, i := range p.Images {
		one.images = append(one.images, i.Tagged())
	}
	f.pulls = append(f.pulls, one)
	takes := f.takes
	f.mu.Unlock()
	timer := time.NewTimer(takes)
	defer timer.Stop()
	stopped := false
	select {
	case <-timer.C:
	case <-ctx.Done():
		stopped = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = append(f.ended, time.Now())
	var out []warm.Outcome
	for _, i := range p.Images {
		o := warm.Outcome{Image: i, Digest: digest.FromString(f.digests[i.Name()]), Fetched: 10}
		if f.broken[i.Name()] {
			o.Err = errors.New("it is broken")
		}
		if stopped {
			o.Err = errors.New("stopped")
		}
		out = append(out, o)
	}
	if stopped {
		return out, context.Cause(ctx)
	}
	return out, nil
}

func (f *fake) Look(_ context.Context, p warm.Pull) ([]warm.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []warm.Outcome
	for _, i := range p.Images {
		o := warm.Outcome{Image: i, Digest: digest.FromString(f.digests[i.Name()])}
		if !f.unchanged[i.Name()] {
			o.Err = errors.New("not here")
		}
		out = append(out, o)
	}
	return out, nil
}

func (f *fake) Complete(string, digest.Digest) bool { return true }

func (f *fake) Drop(names []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drops = append(f.drops, names...)
	return nil
}
func (f *fake) KeepBudget(context.Context, warm.Budget, func(string) bool) error { return nil }
func (f *fake) Load(group string) []byte                                         { f.mu.Lock(); defer f.mu.Unlock(); return f.states[group] }
func (f *fake) Save(group string, s []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states[group] = s
	return nil
}
func (f *fake) Tell(_ context.Context, _ warm.Hook, e warm.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	return nil
}
func (f *fake) Ready(g warm.Group, yes bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready[g.Name] = yes
	return nil
}
func (f *fake) Log(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, args...))
}

// run runs a config for some time, which costs none.
func run(t *testing.T, f *fake, text string, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := warm.New(load(t, text), f, "machine", warm.Unbound).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// times are when pulls began, as hours and minutes of a place.
func (f *fake) times(t *testing.T, place string) []string {
	t.Helper()
	l, err := time.LoadLocation(place)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range f.pulls {
		out = append(out, p.at.In(l).Format("01-02 15:04"))
	}
	return out
}

// A month of nights, over the change of the clocks: one round each night, at its time of
// the day.
func TestAMonthOfNights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		berlin, err := time.LoadLocation("Europe/Berlin")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(time.Date(2026, 3, 10, 12, 0, 0, 0, berlin)))
		f := newFake()
		run(t, f, "timezone: Europe/Berlin\ngroups:\n- {name: a, schedule: '30 3 * * *', images: [alpine]}\n", 30*24*time.Hour)
		times := f.times(t, "Europe/Berlin")
		if len(times) != 31 { // the first at once, and 30 nights
			t.Errorf("%d rounds: %v", len(times), times)
		}
		for i, at := range times[1:] {
			if !strings.HasSuffix(at, " 03:30") || at == times[i] {
				t.Errorf("round %d at %s", i+1, at)
			}
		}
	})
}

// Jitter is within its bound, and not the same for all.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		run(t, f, "timezone: UTC\ngroups:\n- {name: a, every: 1h, jitter: 10m, images: [alpine]}\n", 24*time.Hour)
		seen := map[int]bool{}
		for _, p := range f.pulls[1:] {
			m := p.at.UTC().Minute()
			if m >= 10 {
				t.Errorf("a round at %s", p.at)
			}
			seen[m] = true
		}
		if len(f.pulls) < 24 || len(f.pulls) > 25 || len(seen) < 4 {
			t.Errorf("%d rounds, at %d different minutes", len(f.pulls), len(seen))
		}
	})
}

// Rounds that were missed while nothing ran are made up for once; a round that takes
// too long doesn't begin twice.
func TestMissedRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text = "timezone: UTC\ngroups:\n- {name: a, every: 1h, images: [alpine]}\n"
		f := newFake()
		run(t, f, text, 3*time.Hour+time.Minute)
		first := len(f.pulls)
		time.Sleep(10 * time.Hour)
		run(t, f, text, 30*time.Second)
		if got := len(f.pulls) - first; got != 1 {
			t.Errorf("%d rounds after ten were missed", got)
		}
		run(t, f, text, 30*time.Second) // started again: none is due
		if got := len(f.pulls) - first; got != 1 {
			t.Errorf("%d rounds after a restart", got)
		}
		f = newFake()
		f.takes = 150 * time.Minute
		run(t, f, text, 10*time.Hour-time.Minute)
		for i := 1; i < len(f.pulls); i++ {
			if d := f.pulls[i].at.Sub(f.pulls[i-1].at); d < f.takes {
				t.Errorf("a round begins %s after the last one, which took longer", d)
			}
		}
		if len(f.pulls) != 4 {
			t.Errorf("%d rounds of 2.5 h in 10 h: %v", len(f.pulls), f.times(t, "UTC"))
		}
	})
}

// A clock that is set while a round is waited for: ahead, and what was missed is made up
// for once, within a minute; back, and the next round is when the clock says so, and not
// as much later as it was set back.
func TestClockSteps(t *testing.T) {
	for _, c := range []struct {
		name   string
		step   time.Duration
		rounds []string
	}{
		{"not at all", 0, []string{"01-01 00:00", "01-01 06:00", "01-01 12:00", "01-01 18:00"}},
		{"ahead", 31 * time.Hour, []string{"01-01 00:00", "01-02 09:31", "01-02 12:00", "01-02 18:00", "01-03 00:00"}},
		{"back", -49 * time.Hour, []string{"01-01 00:00", "12-30 06:00", "12-30 12:00", "12-30 18:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				r := warm.New(load(t, "timezone: UTC\ngroups:\n- {name: a, schedule: 0 */6 * * *, images: [alpine]}\n"), f, "machine", warm.Unbound)
				began := time.Now()
				f.now = func() time.Time {
					now := time.Now()
					if now.Sub(began) >= 150*time.Minute+30*time.Second {
						now = now.Add(c.step)
					}
					return now
				}
				r.SetClock(f.now)
				ctx, cancel := context.WithTimeout(t.Context(), 23*time.Hour-time.Minute)
				defer cancel()
				if err := r.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
				if got := f.times(t, "UTC"); !slices.Equal(got, c.rounds) {
					t.Errorf("rounds at %v, want %v", got, c.rounds)
				}
			})
		})
	}
}

// What has failed is tried again alone, ever less often, until the next round.
func TestFailuresAreTriedAgainAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.broken["docker.io/library/bad:1"] = true
		time.AfterFunc(20*time.Minute, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.broken, "docker.io/library/bad:1")
		})
		run(t, f, "timezone: UTC\nhooks: {failed: [{command: [x]}], fresh: [{command: [x]}]}\ngroups:\n- {name: a, schedule: '0 0 * * *', images: ['good:1', 'bad:1']}\n", 2*time.Hour)
		if len(f.pulls) != 6 { // after 1, 3, 7, 15 and 31 minutes
			t.Fatalf("%v", f.times(t, "UTC"))
		}
		for i, p := range f.pulls[1:] {
			if !slices.Equal(p.images, []string{"docker.io/library/bad:1"}) {
				t.Errorf("try %d is of %v", i+1, p.images)
			}
		}
		if !f.ready["a"] {
			t.Error("it isn't ready when all is fine")
		}
		var kinds []string
		for _, e := range f.events {
			kinds = append(kinds, e.Event+" "+e.Image)
		}
		if want := []string{"fresh docker.io/library/good:1", "failed docker.io/library/bad:1", "fresh docker.io/library/bad:1"}; !slices.Equal(kinds, want) {
			t.Errorf("events: %v", kinds)
		}
	})
}

// Nothing is fetched outside of the windows; what a window cuts off goes on in the next.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)))
		f := newFake()
		f.takes = 10 * time.Hour
		run(t, f, "timezone: UTC\nwindows: {'22:00-06:00': 1MiB/s, else: off}\ngroups:\n- {name: a, schedule: '0 0 1 1 *', images: ['app:1']}\n", 3*24*time.Hour)
		if got, want := f.times(t, "UTC"), []string{"01-01 22:00", "01-02 22:00", "01-03 22:00"}; !slices.Equal(got, want) {
			t.Errorf("pulls at %v, want %v", got, want)
		}
		if f.pulls[0].rate != 1<<20 {
			t.Errorf("at %.0f bytes a second", f.pulls[0].rate)
		}
	})
	// Windows that follow each other are one; and the end of the last one counts.
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 1, 1, 21, 0, 0, 0, time.UTC)))
		f := newFake()
		f.takes = 100 * time.Hour
		run(t, f, "timezone: UTC\nwindows: {'22:00-23:00': 1MiB/s, '23:00-02:00': 2MiB/s, else: off}\ngroups:\n- {name: a, schedule: '0 0 1 1 *', images: ['app:1']}\n", 24*time.Hour)
		if got, want := f.times(t, "UTC"), []string{"01-01 22:00"}; !slices.Equal(got, want) || f.ended[0].Sub(f.pulls[0].at).Round(time.Minute) != 4*time.Hour {
			t.Errorf("pulls at %v, ended at %v", got, f.ended)
		}
	})
	// Outside of them it is looked all the same.
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)))
		f := newFake()
		f.unchanged = map[string]bool{"docker.io/library/app:1": true}
		run(t, f, "timezone: UTC\nwindows: {'22:00-06:00': full, else: off}\ngroups:\n- {name: a, every: 1h, images: ['app:1']}\n", 3*time.Hour)
		if len(f.pulls) != 0 || !f.ready["a"] {
			t.Errorf("%d pulls, ready %v", len(f.pulls), f.ready["a"])
		}
	})
}

// A round that was cut short is made up for, and so is a group that has become another.
func TestRoundsThatWereCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const text = "timezone: UTC\ngroups:\n- {name: a, schedule: '0 0 1 1 *', images: ['app:1']}\n"
		f := newFake()
		f.takes = time.Hour
		run(t, f, text, 30*time.Minute)
		run(t, f, text, 2*time.Hour)
		if len(f.pulls) != 2 || !f.ready["a"] {
			t.Errorf("%d pulls, ready %v", len(f.pulls), f.ready["a"])
		}
		run(t, f, text, 2*time.Hour)
		if len(f.pulls) != 2 {
			t.Errorf("%d pulls when none is due", len(f.pulls))
		}
		run(t, f, strings.Replace(text, "app:1", "app:2", 1), 2*time.Hour)
		if len(f.pulls) != 3 {
			t.Errorf("%d pulls when the group is another", len(f.pulls))
		}
	})
}

// Tags that couldn't be listed are asked for again.
func TestTagsAreAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.tags["team/app"] = []string{"v1"}
		f.broken["team/app"] = true
		time.AfterFunc(5*time.Minute, func() { f.mu.Lock(); defer f.mu.Unlock(); delete(f.broken, "team/app") })
		run(t, f, "timezone: UTC\ngroups:\n- {name: a, schedule: '0 0 1 1 *', images: [{repository: r.example/team/app}]}\n", time.Hour)
		if len(f.pulls) != 1 || !f.ready["a"] {
			t.Errorf("%d pulls, ready %v", len(f.pulls), f.ready["a"])
		}
	})
}

// Groups fetch one after another.
func TestGroupsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.takes = time.Hour
		run(t, f, "timezone: UTC\ngroups:\n- {name: a, schedule: '0 0 1 1 *', images: ['a:1']}\n- {name: b, schedule: '0 0 1 1 *', images: ['b:1']}\n", 3*time.Hour)
		if len(f.pulls) != 2 || f.pulls[1].at.Sub(f.pulls[0].at) < f.takes {
			t.Errorf("pulls at %v", f.times(t, "UTC"))
		}
	})
}

// With a deadline it is no faster than it takes.
func TestFinishBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 1, 1, 2, 0, 0, 0, time.UTC)))
		f := newFake()
		run(t, f, "timezone: UTC\ngroups:\n- {name: a, schedule: '0 0 1 1 *', finish_by: '03:00', images: ['app:1']}\n", time.Minute)
		if got := f.pulls[0].rate / (1 << 20); got < 1 || got > 1.3 { // 3600 MiB in an hour
			t.Errorf("%.2f MiB/s", got)
		}
	})
}

// The newest tags are selected, what falls out is kept for its time, and dropped then.
func TestNewestAndKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.tags["team/app"] = []string{"v1.2.0", "v1.10.0", "v1.9.1", "v1.10.1-rc1", "latest", "v1.10.1-rc2"}
		const text = "timezone: UTC\ngroups:\n- name: a\n  every: 1h\n  images: [{repository: r.example/team/app, tags: 'v*', exclude: '*-rc1', newest: 3}]\n  keep: {age: 5h}\n"
		time.AfterFunc(90*time.Minute, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.tags["team/app"] = append(f.tags["team/app"], "v1.10.1")
		})
		run(t, f, text, 4*time.Hour)
		if got, want := f.pulls[0].images, []string{"r.example/team/app:v1.10.1-rc2", "r.example/team/app:v1.10.0", "r.example/team/app:v1.9.1"}; !slices.Equal(got, want) {
			t.Errorf("selected: %v", got)
		}
		if last := f.pulls[len(f.pulls)-1].images; !slices.Equal(last, []string{"r.example/team/app:v1.10.1", "r.example/team/app:v1.10.1-rc2", "r.example/team/app:v1.10.0"}) {
			t.Errorf("selected in the end: %v", last)
		}
		if len(f.drops) != 0 {
			t.Errorf("dropped too early: %v", f.drops)
		}
		f.mu.Lock()
		f.broken["team/app"] = true // what isn't known drops nothing
		f.mu.Unlock()
		run(t, f, text, 6*time.Hour)
		if len(f.drops) != 0 {
			t.Errorf("dropped while the tags weren't known: %v", f.drops)
		}
		f.mu.Lock()
		delete(f.broken, "team/app")
		f.mu.Unlock()
		run(t, f, text, 3*time.Hour)
		if !slices.Equal(f.drops, []string{"r.example/team/app:v1.9.1"}) {
			t.Errorf("dropped: %v", f.drops)
		}
	})
}

// The digests that an image had are known, and readiness needs a round since it was due.
func TestHistoryAndReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		const text = "timezone: UTC\ngroups:\n- {name: a, every: 1h, images: ['app:1']}\n"
		time.AfterFunc(90*time.Minute, func() { f.mu.Lock(); defer f.mu.Unlock(); f.digests["docker.io/library/app:1"] = "two" })
		run(t, f, text, 3*time.Hour+time.Minute)
		s := warm.ReadState(f.states["a"], "a")
		if len(s.Images) != 1 || len(s.Images[0].History) != 2 || !s.Fresh(s.Images[0], time.Now()) {
			t.Errorf("%+v", s)
		}
		if s.Fresh(s.Images[0], time.Now().Add(2*time.Hour)) {
			t.Error("fresh though rounds were missed")
		}
		if !f.ready["a"] {
			t.Error("not ready")
		}
	})
}

func TestOnce(t *testing.T) {
	f := newFake()
	r := warm.New(load(t, "groups:\n- {name: a, every: 1h, images: ['app:1']}\n- {name: b, every: 1h, images: ['bad:1']}\n"), f, "", warm.Unbound)
	f.broken["docker.io/library/bad:1"] = true
	for _, c := range []struct {
		groups []string
		want   bool
	}{{[]string{"a"}, true}, {[]string{"b"}, false}, {nil, false}} {
		if ready, err := r.Once(t.Context(), c.groups); err != nil || ready != c.want {
			t.Errorf("%v: %v, %v", c.groups, ready, err)
		}
	}
	if _, err := r.Once(t.Context(), []string{"c"}); err == nil {
		t.Error("a group that isn't there")
	}
}

// A file that is too large is refused, and not read in part.
func TestLoadRefusesWhatIsTooLarge(t *testing.T) {
	image := "    - registry.example/team/app:1\n"
	text := "groups:\n- name: a\n  every: 1h\n  images:\n" + strings.Repeat(image, limits.WarmBytes/len(image))
	if _, err := warm.Load(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("%v", err)
	}
}

// Whatever a file has, reading it takes little memory, and ends.
func TestLoadTakesLittleMemory(t *testing.T) {
	head := "groups:\n- name: a\n  every: 1h\n  images:\n"
	fill := func(part string, n int) string { return strings.Repeat(part, n/len(part)) }
	for name, text := range map[string]string{
		"empty maps":    "groups: [" + fill("{},", limits.WarmBytes-20) + "{}]",
		"list items":    head + fill("  - \n", limits.WarmBytes-100),
		"complex keys":  fill("? \n  ", limits.WarmBytes),
		"depth":         fill("[", limits.WarmBytes),
		"blocks within": fill("- - - - - - - - - - - - - - - - ", limits.WarmBytes),
		"aliases":       "a: &a [x,x,x,x,x,x,x,x,x]\n" + fill("b: [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n", limits.WarmBytes-40),
		"one long word": fill("x", limits.WarmBytes),
		"lines":         fill("\n", limits.WarmBytes),
		"quotes":        "a: \"" + fill("\\u0041", limits.WarmBytes-10) + "\"",
		"comments":      fill("#\n", limits.WarmBytes),
		"just allowed":  "groups: [" + fill("{},", 3*(limits.WarmValues/2-10)) + "{}]",
		"keys allowed":  fill("? \n  ", 5*(limits.WarmValues-1)),
		"items allowed": head + fill("  - \n", 5*(limits.WarmValues-20)),
		"deep, allowed": fill("- ", 2*(limits.WarmValues-1)),
	} {
		t.Run(name, func(t *testing.T) {
			limitstest.Within(t, limitstest.Most, func() {
				if _, err := warm.Load(strings.NewReader(text)); err == nil {
					t.Error("it was taken")
				}
			})
		})
	}
}

func TestLoadTakesManyImages(t *testing.T) {
	image := "  - registry.example.com/some-team/some-app-name:v1.2-rc.3\n"
	text := "groups:\n- name: a\n  every: 1h\n  images:\n" + strings.Repeat(image, 15_000)
	if _, err := warm.Load(strings.NewReader(text)); err != nil {
		t.Error(err)
	}
	over := "groups: [" + strings.Repeat("-", limits.WarmValues) + "]"
	if _, err := warm.Load(strings.NewReader(over)); err == nil || !strings.Contains(err.Error(), "too many values") {
		t.Errorf("one mark more than allowed: %v", err)
	}
}
