package warm

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"drayage/cmd/drayage/internal/limits"
	"drayage/engine/jsonstream"

	"github.com/opencontainers/go-digest"
)

// State is what is known of a group between rounds, and outlives the process.
type State struct {
	Version int       `json:"version"` // 1
	Group   string    `json:"group"`
	Began   time.Time `json:"began,omitzero"` // the last round
	Ended   time.Time `json:"ended,omitzero"`
	// Finished is when the last round began that has ended.
	Finished time.Time `json:"finished,omitzero"`
	Selects  string    `json:"selects,omitempty"` // tells whether the group has changed since
	Pinned   bool      `json:"pinned,omitempty"`  // what it selects stays, whatever the budget says
	Next     time.Time `json:"next,omitzero"`     // when the next one is due
	Images   []Image   `json:"images"`
	Problem  string    `json:"problem,omitempty"` // of the round as a whole
	Fetched  int64     `json:"fetched"`           // bytes in the last round
}

const stateVersion = 1

// Image is one of a group's images.
type Image struct {
	Name    string    `json:"name"` // with registry and tag
	Digest  string    `json:"digest,omitempty"`
	Checked time.Time `json:"checked,omitzero"` // when it was last found to be, or made, complete and fresh
	Changed time.Time `json:"changed,omitzero"` // when its digest last became another
	// History are the digests that it had, the latest last.
	History []Version `json:"history,omitempty"`
	Error   string    `json:"error,omitempty"` // of the last try
	Tries   int       `json:"tries,omitempty"` // that failed since it was last fine
	// Dropped is when the group has ceased to select it.
	Dropped time.Time `json:"dropped,omitzero"`
}

// Version is what an image once was.
type Version struct {
	Digest digest.Digest `json:"digest"`
	Since  time.Time     `json:"since"`
}

const mostHistory = 20

// ReadState reads a state; what can't be read is as if absent.
func ReadState(raw []byte, group string) State {
	var s State
	in := jsonstream.New(bytes.NewReader(raw), nil)
	err := in.EndAfter(in.Document(&s, map[string]func() error{"images": func() error {
		if len(s.Images) >= limits.ListImages {
			return jsonstream.ErrTooMuch
		}
		var i Image
		_, err := in.Entry(&i)
		s.Images = append(s.Images, i)
		return err
	}}))
	if err != nil || s.Version != stateVersion || s.Group != group {
		return State{Version: stateVersion, Group: group}
	}
	return s
}

func (s *State) marshal() []byte {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil // its types can all be marshalled
	}
	return raw
}

// image is a group's image by its name, made when absent.
func (s *State) image(name string) *Image {
	i := slices.IndexFunc(s.Images, func(i Image) bool { return i.Name == name })
	if i < 0 {
		s.Images = append(s.Images, Image{Name: name})
		i = len(s.Images) - 1
	}
	return &s.Images[i]
}

// fine notes that an image is complete and fresh, and reports whether it has changed.
func (i *Image) fine(d digest.Digest, now time.Time) (changed bool) {
	changed = i.Digest != d.String()
	if changed {
		i.Digest, i.Changed = d.String(), now
		i.History = append(i.History, Version{d, now})
		if len(i.History) > mostHistory {
			i.History = i.History[len(i.History)-mostHistory:]
		}
	}
	i.Checked, i.Error, i.Tries, i.Dropped = now, "", 0, time.Time{}
	return changed
}

// Selected are the images that the group selects, by what is known.
func (s *State) Selected() []Image {
	return slices.DeleteFunc(slices.Clone(s.Images), func(i Image) bool { return !i.Dropped.IsZero() })
}

// Fresh reports whether an image was found fresh in the last round that has ended, or
// later, and none is overdue.
func (s *State) Fresh(i Image, now time.Time) bool {
	const late = 5 * time.Minute // for a round to begin
	if i.Checked.IsZero() || i.Checked.Before(s.Finished) || i.Error != "" {
		return false
	}
	return s.Next.IsZero() || now.Before(s.Next.Add(late))
}
