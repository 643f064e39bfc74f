package web

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/progress"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/mirror"
	"drayage/engine/printable"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// Group is a group of images that is kept warm, for the page.
type Group struct {
	Name    string
	Images  int
	Fresh   int
	Last    time.Time // the last round's end
	Next    time.Time
	Problem string // of the last round
	Ready   bool   // complete and fresh
	// Members are its images, for those who may not see all of them.
	Members []Member
}

// Member is an image of a group.
type Member struct {
	Name string
	Why  string // it isn't complete and fresh; "" when it is
}

// seenBy is a group as a user sees it: images that the user may not see aren't in it, and a group of such
// images alone isn't there. What was wrong with a round may tell of them, too.
func (g Group) seenBy(p *mirror.Private, user string) (Group, bool) {
	if p.Everything(user) {
		return g, true
	}
	seen := Group{Name: g.Name, Last: g.Last, Next: g.Next}
	for _, m := range g.Members {
		if !p.MayName(user, m.Name) {
			continue
		}
		if seen.Images++; m.Why == "" {
			seen.Fresh++
		} else {
			seen.Problem = cmp.Or(seen.Problem, m.Name+": "+m.Why)
		}
	}
	seen.Ready = seen.Images > 0 && seen.Fresh == seen.Images
	return seen, seen.Images > 0
}

// Freshness is when an image was last found to be what its tag stands for, and when
// that last changed.
type Freshness struct{ Checked, Changed time.Time }

//go:embed page.html page.js
var files embed.FS

var pageTemplate = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"text": printable.Text,
	"size": progress.Size,
	"rate": func(r float64) string { return progress.Size(int64(r)) + "/s" },
	"ago":  ago,
	"moment": func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return t.Local().Format("Mon 15:04:05")
	},
	"familiar": func(name string) string {
		if ref, err := reference.Parse(name); err == nil && digest.Digest(name).Validate() != nil {
			return ref.String()
		}
		return printable.Text(name)
	},
	"seconds": func(s float64) string { return time.Duration(s * float64(time.Second)).Round(time.Second).String() },
}).ParseFS(files, "page.html"))

// ago is how long ago a moment was, for people.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	const day = 24 * time.Hour
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return fmt.Sprintf("%d days ago", d/day)
}

type pageData struct {
	Now       time.Time
	Version   string
	Usage     blobstore.Usage
	Budget    int64
	Used      float64 // percent of the budget
	Images    []pageImage
	More      int  // images beyond those that the page has
	All       bool // nothing is hidden from who looks
	Transfers []Transfer
	Groups    []Group
	Hits      int64
	Asked     int64
	HitRate   float64 // percent
}

type pageImage struct {
	blobstore.ImageUsage
	Freshness
	Incomplete bool // only some of it was asked for so far
}

// pageImages are the images of a store for the page.
func pageImages(ctx context.Context, store *blobstore.Store, freshness func() map[string]Freshness) ([]pageImage, error) {
	images, err := store.ImageUsages()
	if err != nil {
		return nil, err
	}
	var fresh map[string]Freshness
	if freshness != nil {
		fresh = freshness()
	}
	out := make([]pageImage, 0, len(images))
	for _, i := range images {
		if ctx.Err() != nil { // nobody waits for it any more
			return nil, context.Cause(ctx)
		}
		_, err := compose.Stored(ctx, store, i.Root, image.DefaultPlatform())
		out = append(out, pageImage{i, fresh[i.Name], err != nil})
	}
	return out, nil
}

// shown are those of the images that a user is shown, and how many there are. What was asked for by
// digest, and is part of another image, is no image for people.
func shown(all []pageImage, p *mirror.Private, user string) (out []pageImage, total int) {
	const most = 1000
	everything := p.Everything(user)
	part := make(map[digest.Digest]int)
	var may []pageImage
	for _, i := range all {
		if !everything && !p.MayName(user, i.Name) {
			continue
		}
		may = append(may, i)
		for _, d := range i.Blobs {
			part[d]++
		}
	}
	for _, i := range may {
		if strings.Contains(i.Name, "@") && part[i.Target.Digest] > 1 {
			continue
		}
		if total++; total <= most {
			out = append(out, i)
		}
	}
	return out, total
}

// page is the page for people.
func (s *site) page(w http.ResponseWriter, r *http.Request) {
	user := userOf(w)
	usage, err := s.looks.usage.get(r.Context())
	var images []pageImage
	if err == nil {
		images, err = s.looks.images.get(r.Context())
	}
	if err != nil {
		answer(w, http.StatusInternalServerError, "the store can't be read\n")
		return
	}
	d := pageData{Now: time.Now(), Version: s.o.Version, Usage: usage, Budget: s.o.Budget, Transfers: s.transfers(user), All: s.o.Private.Everything(user)}
	total := 0
	d.Images, total = shown(images, s.o.Private, user)
	d.More = total - len(d.Images)
	if !d.All {
		d.Usage.Images = total
	}
	if d.Budget > 0 {
		d.Used = min(100, 100*float64(usage.Bytes)/float64(d.Budget))
	}
	d.Groups = s.groups(r.Context(), user)
	d.Hits = s.o.Metrics.hits.Load()
	if d.Asked = d.Hits + s.o.Metrics.misses.Load(); d.Asked > 0 {
		d.HitRate = 100 * float64(d.Hits) / float64(d.Asked)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_ = pageTemplate.Execute(w, d) // the client has gone, if not
}

// groups are the groups that a user may see.
func (s *site) groups(ctx context.Context, user string) []Group {
	all, err := s.looks.groups.get(ctx)
	if err != nil {
		return nil
	}
	var out []Group
	for _, g := range all {
		if seen, ok := g.seenBy(s.o.Private, user); ok {
			out = append(out, seen)
		}
	}
	return out
}

// transfers are those under way that a user may see.
func (s *site) transfers(user string) []Transfer {
	all := s.o.Transfers.Now()
	if s.o.Private.Everything(user) {
		return all
	}
	return slices.DeleteFunc(all, func(t Transfer) bool { return !s.o.Private.MayName(user, t.Image) })
}

func script(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	http.ServeFileFS(w, r, files, "page.js")
}

// events sends the transfers under way, as they change, as server-sent events.
func (s *site) events(w http.ResponseWriter, r *http.Request) {
	const often = time.Second
	user := userOf(w)
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	tick := time.NewTicker(often)
	defer tick.Stop()
	last := ""
	for n := 0; ; n++ {
		raw, err := json.Marshal(s.transfers(user))
		if err != nil {
			return
		}
		const alive = 15 // ticks, after which something is said in any case
		if text := string(raw); text != last || n%alive == 0 {
			last = text
			if _, err := printable.Fprintf(w, "data: %s\n\n", printable.JSON(raw)); err != nil {
				return
			}
			if err := out.Flush(); err != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-s.o.Closing:
			return
		}
	}
}
