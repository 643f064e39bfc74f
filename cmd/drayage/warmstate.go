package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/warm"
	"drayage/cmd/drayage/internal/web"
)

// whyIncomplete says why not all of an image is in the store as it was found, "" when it
// is.
func whyIncomplete(store *blobstore.Store, name, d string) string {
	root, err := store.Root(name)
	if err != nil || root.Target.Digest.String() != d {
		return "not in the store as it was found"
	}
	for _, blob := range root.Blobs {
		if _, err := store.Stat(blob); err != nil {
			return "not all of it is there"
		}
	}
	return ""
}

// warmNote is the name of a group's state in the store.
func warmNote(group string) string { return "warm/" + group }

// groupStatus is a group's as status has it in JSON.
type groupStatus struct {
	Group  string        `json:"group"`
	Ready  bool          `json:"ready"`
	Last   time.Time     `json:"last,omitzero"`
	Next   time.Time     `json:"next,omitzero"`
	Images []imageStatus `json:"images"`
	Error  string        `json:"error,omitempty"`
}

type imageStatus struct {
	Image   string    `json:"image"`
	Digest  string    `json:"digest,omitempty"`
	Ready   bool      `json:"ready"`
	Why     string    `json:"why,omitempty"` // it isn't
	Checked time.Time `json:"checked,omitzero"`
	Changed time.Time `json:"changed,omitzero"`
}

// statusOfGroup works out what is complete and fresh of a group, as its state has it, and
// of what a file names besides.
func statusOfGroup(store *blobstore.Store, group string, unlooked func(warm.State) []string, now time.Time) groupStatus {
	state := warm.ReadState(store.Note(warmNote(group)), group)
	out := groupStatus{Group: group, Last: state.Ended, Next: state.Next, Error: state.Problem, Images: []imageStatus{}}
	for _, i := range state.Selected() {
		s := imageStatus{Image: familiar(i.Name), Digest: i.Digest, Checked: i.Checked, Changed: i.Changed, Why: i.Error}
		switch why := whyIncomplete(store, i.Name, i.Digest); {
		case s.Why != "":
		case why != "":
			s.Why = why
		case !state.Fresh(i, now):
			s.Why = "not looked at since the last round was due"
		}
		s.Ready = s.Why == ""
		out.Images = append(out.Images, s)
	}
	for _, name := range unlooked(state) {
		out.Images = append(out.Images, imageStatus{Image: name, Why: "not looked at yet"})
	}
	out.Ready = len(out.Images) > 0 && out.Error == "" && !slices.ContainsFunc(out.Images, func(i imageStatus) bool { return !i.Ready })
	if out.Error == "" && len(out.Images) == 0 {
		out.Error = "no round has been yet"
	}
	return out
}

// warmGroups are the groups that the store knows of, for the page.
func warmGroups(store *blobstore.Store) []web.Group {
	names, err := store.Notes("warm/")
	if err != nil {
		return nil
	}
	var out []web.Group
	for _, name := range names {
		s := statusOfGroup(store, strings.TrimPrefix(name, "warm/"), func(warm.State) []string { return nil }, time.Now())
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

// warmFreshness is what is known of images that are kept warm, by name.
func warmFreshness(store *blobstore.Store) map[string]web.Freshness {
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

// warmPins reports of images whether a group that is kept warm pins them.
func warmPins(store *blobstore.Store) (func(name string) bool, error) {
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
