package warmer

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/stores"
	"drayage/cmd/drayage/internal/warm"
	"drayage/cmd/drayage/internal/web"
)

// whyIncomplete is why an image is not complete in the store; "" if it is.
func whyIncomplete(store *blobstore.Store, name, d string) string {
	root, err := store.Root(name)
	if err != nil || root.Target.Digest.String() != d {
		return "not in the store, or changed there"
	}
	for _, blob := range root.Blobs {
		if _, err := store.Stat(blob); err != nil {
			return "blobs are missing"
		}
	}
	return ""
}

// stateFile is the name of a group's state file in the store.
func stateFile(group string) string { return "warm/" + group }

// GroupStatus is the status of a group, as status prints it as JSON.
type GroupStatus struct {
	Group  string        `json:"group"`
	Ready  bool          `json:"ready"`
	Last   time.Time     `json:"last,omitzero"`
	Next   time.Time     `json:"next,omitzero"`
	Images []ImageStatus `json:"images"`
	Error  string        `json:"error,omitempty"`
}

// ImageStatus is the status of an image of a group.
type ImageStatus struct {
	Image   string    `json:"image"`
	Digest  string    `json:"digest,omitempty"`
	Ready   bool      `json:"ready"`
	Why     string    `json:"why,omitempty"` // it is not ready
	Checked time.Time `json:"checked,omitzero"`
	Changed time.Time `json:"changed,omitzero"`
}

// StatusOf reports which images of a group are complete and fresh, by its state file. unlooked lists
// images that its configuration names and that have not been checked yet.
func StatusOf(store *blobstore.Store, group string, unlooked func(warm.State) []string, now time.Time) GroupStatus {
	state := warm.ReadState(store.Note(stateFile(group)), group)
	out := GroupStatus{Group: group, Last: state.Ended, Next: state.Next, Error: state.Problem, Images: []ImageStatus{}}
	for _, i := range state.Selected() {
		s := ImageStatus{Image: stores.Familiar(i.Name), Digest: i.Digest, Checked: i.Checked, Changed: i.Changed, Why: i.Error}
		switch why := whyIncomplete(store, i.Name, i.Digest); {
		case s.Why != "":
		case why != "":
			s.Why = why
		case !state.Fresh(i, now):
			s.Why = "not checked since the last scheduled run"
		}
		s.Ready = s.Why == ""
		out.Images = append(out.Images, s)
	}
	for _, name := range unlooked(state) {
		out.Images = append(out.Images, ImageStatus{Image: name, Why: "not checked yet"})
	}
	out.Ready = len(out.Images) > 0 && out.Error == "" && !slices.ContainsFunc(out.Images, func(i ImageStatus) bool { return !i.Ready })
	if out.Error == "" && len(out.Images) == 0 {
		out.Error = "not run yet"
	}
	return out
}

// Groups are the groups with a state file in the store, for the page.
func Groups(store *blobstore.Store) []web.Group {
	names, err := store.Notes("warm/")
	if err != nil {
		return nil
	}
	var out []web.Group
	for _, name := range names {
		s := StatusOf(store, strings.TrimPrefix(name, "warm/"), func(warm.State) []string { return nil }, time.Now())
		const forgotten = 7 * 24 * time.Hour // after its next round was due, a group that nobody keeps any more
		if !s.Next.IsZero() && time.Since(s.Next) > forgotten {
			continue
		}
		g := web.Group{Name: s.Group, Images: len(s.Images), Last: s.Last, Next: s.Next, Problem: s.Error, Ready: s.Ready}
		for _, i := range s.Images {
			g.Members = append(g.Members, web.Member{Name: i.Image, Why: i.Why})
			if i.Ready {
				g.Fresh++
			} else {
				g.Problem = cmp.Or(g.Problem, i.Image+": "+i.Why)
			}
		}
		out = append(out, g)
	}
	return out
}

// Freshness is when the images of warm groups were checked and changed, by name.
func Freshness(store *blobstore.Store) map[string]web.Freshness {
	names, err := store.Notes("warm/")
	if err != nil {
		return nil
	}
	out := make(map[string]web.Freshness)
	for _, name := range names {
		for _, i := range warm.ReadState(store.Note(name), strings.TrimPrefix(name, "warm/")).Images {
			if out[i.Name].Checked.Before(i.Checked) {
				out[i.Name] = web.Freshness{Checked: i.Checked, Changed: i.Changed}
			}
		}
	}
	return out
}

// Pins returns a function that reports whether a group pins an image.
func Pins(store *blobstore.Store) (func(name string) bool, error) {
	names, err := store.Notes("warm/")
	if err != nil {
		return nil, err
	}
	var states []warm.State
	for _, name := range names {
		states = append(states, warm.ReadState(store.Note(name), strings.TrimPrefix(name, "warm/")))
	}
	return warm.Pinned(states), nil
}
