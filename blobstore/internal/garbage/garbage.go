// Package garbage works out what a store can delete, of what is there and who needs it. It reads
// and changes nothing by itself.
package garbage

import (
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Blob is a whole blob, or what has arrived of one.
type Blob struct {
	Digest   digest.Digest
	Size     int64 // bytes of the disk
	Modified time.Time
}

// Image is what an image needs.
type Image struct {
	Blobs  []digest.Digest // each once
	Used   time.Time       // last
	Stays  bool            // whatever the policy says
	number int             // in Input.Images
}

// Conversion is a blob that was made of another and can be made again.
type Conversion struct {
	From digest.Digest
	Made digest.Digest // "" for one that only says what From is without compression
}

// Policy is what may stay.
type Policy struct {
	Unused   time.Duration // of an image since it was used; 0 is for ever
	Budget   int64         // bytes of all; 0 is no bound
	Grace    time.Duration // of a blob that no image needs
	Partials time.Duration // of a partial blob that nobody continues
}

// Input is what there is. Blobs that are on their way are in none of its lists.
type Input struct {
	Now         time.Time
	Images      []Image
	Blobs       []Blob
	Partials    []Blob
	Conversions []Conversion
	Kept        map[digest.Digest]bool // by somebody who uses them now
	Coming      map[digest.Digest]bool // on their way, or just arrived
}

// Plan is what goes, by the places in the lists of the input, and what is left then.
type Plan struct {
	Images      []int
	Blobs       []int
	Partials    []int
	Derived     int   // records of conversions whose blobs are gone or going
	Left        int64 // bytes of the whole blobs that stay
	LeftPartial int64 // of the partial ones that stay
	Young       int   // blobs among them that nothing needs, and that stay for their age
	YoungBytes  int64
}

// planner is a plan in the making.
type planner struct {
	Input
	Policy
	plan        Plan
	images      []Image      // that stay
	partials    []int        // that stay
	conversions []Conversion // that are worth their space
	stays       map[digest.Digest]bool
}

// Find plans what goes. It changes none of the input.
func Find(in Input, policy Policy) Plan {
	p := &planner{Input: in, Policy: policy, conversions: in.Conversions}
	p.dropUnused()
	p.dropOldPartials()
	if p.Budget > 0 {
		p.fit()
	}
	p.dropBlobs()
	for _, c := range in.Conversions {
		if !p.stays[c.From] || c.Made != "" && !p.stays[c.Made] {
			p.plan.Derived++
		}
	}
	return p.plan
}

// dropUnused has images go that nobody has used for long.
func (p *planner) dropUnused() {
	for i, m := range p.Images {
		m.number = i
		if p.Unused > 0 && p.Now.Sub(m.Used) > p.Unused && !m.Stays {
			p.plan.Images = append(p.plan.Images, i)
		} else {
			p.images = append(p.images, m)
		}
	}
}

// dropOldPartials has partial blobs go that nobody is at work on, and that nobody has
// continued for some time.
func (p *planner) dropOldPartials() {
	for i, b := range p.Input.Partials {
		if !p.Kept[b.Digest] && p.Now.Sub(b.Modified) > p.Policy.Partials {
			p.plan.Partials = append(p.plan.Partials, i)
		} else {
			p.partials = append(p.partials, i)
			p.plan.LeftPartial += b.Size
		}
	}
}

// fit has partial blobs, then what was made of others, and then images go, until the rest
// fits into the budget.
func (p *planner) fit() {
	c := count(p.Blobs, p.images)
	made := c.madeBytes(p.Blobs, p.conversions)
	p.dropPartials(c.bytes + made + p.unneededBytes(c) + p.plan.LeftPartial - p.Budget)
	p.Budget = max(1, p.Budget-p.plan.LeftPartial) // for whole ones
	// What was made of blobs can be made again, so it goes first.
	if c.bytes+made > p.Budget {
		p.conversions = nil
	}
	slices.SortFunc(p.images, func(a, b Image) int { return b.Used.Compare(a.Used) }) // least recently used last
	for i := len(p.images) - 1; i >= 0 && c.bytes > p.Budget; i-- {
		m := p.images[i]
		if m.Stays || c.own(m, p.Kept) == 0 { // its going would free nothing
			continue
		}
		c.remove(m)
		p.plan.Images = append(p.plan.Images, m.number)
		p.images = slices.Delete(p.images, i, i+1)
	}
}

// dropPartials has so many bytes of partial blobs go, those first that were continued longest
// ago, and of those that nobody is at.
func (p *planner) dropPartials(over int64) {
	slices.SortFunc(p.partials, func(a, b int) int {
		return p.Input.Partials[a].Modified.Compare(p.Input.Partials[b].Modified)
	})
	for _, i := range p.partials {
		if over <= 0 {
			return
		}
		if b := p.Input.Partials[i]; !p.Kept[b.Digest] {
			p.plan.Partials = append(p.plan.Partials, i)
			p.plan.LeftPartial -= b.Size
			over -= b.Size
		}
	}
}

// unneededBytes is how many bytes the blobs take that no image needs, and that stay for their age,
// or since somebody keeps them.
func (p *planner) unneededBytes(c *counts) (n int64) {
	young := p.Now.Add(-p.Grace)
	for _, b := range p.Blobs {
		if c.by[b.Digest] == 0 && (p.Kept[b.Digest] || b.Modified.After(young)) {
			n += b.Size
		}
	}
	return n
}

// dropBlobs has blobs go that nothing needs.
func (p *planner) dropBlobs() {
	need := make(map[digest.Digest]bool) // by images that stay
	for _, m := range p.images {
		for _, d := range m.Blobs {
			need[d] = true
		}
	}
	made := MadeOf(p.conversions, need)
	released := make(map[digest.Digest]bool) // of images that go now
	for _, i := range p.plan.Images {
		for _, d := range p.Input.Images[i].Blobs {
			released[d] = true
		}
	}
	p.stays = make(map[digest.Digest]bool)
	maps.Copy(p.stays, p.Coming)
	var graced []int
	for i, b := range p.Blobs {
		switch {
		case need[b.Digest] || p.Kept[b.Digest] || made[b.Digest]:
			p.plan.Left += b.Size
			p.stays[b.Digest] = true
		case p.Now.Sub(b.Modified) < p.Grace && !released[b.Digest]:
			graced = append(graced, i)
		default:
			p.plan.Blobs = append(p.plan.Blobs, i)
		}
	}
	p.keepYoung(graced)
}

// keepYoung keeps blobs for their age, the youngest first, as far as the budget allows.
func (p *planner) keepYoung(graced []int) {
	slices.SortFunc(graced, func(a, b int) int { return p.Blobs[b].Modified.Compare(p.Blobs[a].Modified) })
	for _, i := range graced {
		b := p.Blobs[i]
		if p.Budget > 0 && p.plan.Left+b.Size > p.Budget {
			p.plan.Blobs = append(p.plan.Blobs, i)
			continue
		}
		p.plan.Young, p.plan.YoungBytes = p.plan.Young+1, p.plan.YoungBytes+b.Size
		p.plan.Left += b.Size
		p.stays[b.Digest] = true
	}
}

// counts are the bytes that images need, each blob once.
type counts struct {
	sizes map[digest.Digest]int64
	by    map[digest.Digest]int // how many images need a blob
	bytes int64
}

func count(blobs []Blob, images []Image) *counts {
	c := &counts{sizes: make(map[digest.Digest]int64, len(blobs)), by: make(map[digest.Digest]int)}
	for _, b := range blobs {
		c.sizes[b.Digest] = b.Size
	}
	for _, m := range images {
		for _, d := range m.Blobs {
			if c.by[d]++; c.by[d] == 1 {
				c.bytes += c.sizes[d]
			}
		}
	}
	return c
}

// own is how many bytes an image alone needs, and nobody keeps.
func (c *counts) own(m Image, kept map[digest.Digest]bool) (n int64) {
	for _, d := range m.Blobs {
		if c.by[d] == 1 && !kept[d] {
			n += c.sizes[d]
		}
	}
	return n
}

func (c *counts) remove(m Image) {
	for _, d := range m.Blobs {
		if c.by[d]--; c.by[d] == 0 {
			c.bytes -= c.sizes[d]
		}
	}
}

// madeBytes is how many bytes were made of blobs that images need.
func (c *counts) madeBytes(blobs []Blob, conversions []Conversion) (n int64) {
	need := make(map[digest.Digest]bool)
	for d, k := range c.by {
		need[d] = k > 0
	}
	made := MadeOf(conversions, need)
	for _, b := range blobs {
		if made[b.Digest] && !need[b.Digest] {
			n += b.Size
		}
	}
	return n
}

// MadeOf are the blobs that were made of needed ones.
func MadeOf(conversions []Conversion, need map[digest.Digest]bool) map[digest.Digest]bool {
	out := make(map[digest.Digest]bool)
	for _, c := range conversions {
		if need[c.From] && c.Made != "" {
			out[c.Made] = true
		}
	}
	return out
}
