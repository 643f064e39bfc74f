package listing

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"

	"drayage/engine/cpulimit"
	"drayage/engine/internal/limits"
	"drayage/engine/printable"
	"drayage/engine/registry/internal/response"
)

// Tags are the tags of a list, each once.
type Tags struct {
	Names []string

	bytes int
	seed  maphash.Seed
	known map[uint64]struct{} // by their hashes: a million names would take twice the memory
	work  *cpulimit.Limit
}

// NewTags makes an empty list. work, if not nil, bounds how many pages are decoded at once.
func NewTags(work *cpulimit.Limit) *Tags {
	return &Tags{work: work, seed: maphash.MakeSeed(), known: make(map[uint64]struct{})}
}

// Read adds a page, value by value: a page of nothing but small values would take many times its
// bytes as a whole. One that leads on has no reason to be large, while some registries know no
// pages. Tags that are null are passed over, as Nexus has them. Errors quote the page only when quoted allows that.
func (l *Tags) Read(resp *http.Response, leadsOn, quoted bool) error {
	most := int64(limits.TagListBytes)
	if leadsOn {
		most = limits.PageBytes
	}
	body, err := response.Plain(resp, most+1)
	if err != nil {
		return err
	}
	start := &beginning{Reader: l.work.Reader(body)}
	counted := &counted{Reader: start}
	found := false
	l.work.Do(func() {
		err = eachField(json.NewDecoder(&tokens{Reader: counted, most: limits.NameBytes}), func(key string, d *json.Decoder) error {
			if key != "tags" {
				return skipValue(d)
			}
			if found {
				return fmt.Errorf("%w: the field occurs twice", errTags)
			}
			found = true
			return l.add(d)
		})
	})
	switch {
	case counted.n > most:
		return fmt.Errorf("a page of more than %d MiB", most>>20)
	case errors.Is(err, errTags), errors.Is(err, errTagsMost):
		return err
	case isSyntax(err):
		return errors.New("not valid JSON")
	case err != nil:
		return err
	case !found && !quoted:
		return errors.New("it has no tags")
	case !found:
		return fmt.Errorf("it has no tags: %s", printable.Line(string(start.text)))
	}
	return nil
}

var (
	errTags     = errors.New("tags are not a list of names")
	errTagsMost = fmt.Errorf("it has more than %d tags, or more than %d MiB of them", limits.Tags, limits.TagListBytes>>20)
)

// add adds the names of a JSON array, or of null.
func (l *Tags) add(d *json.Decoder) error {
	token, err := d.Token()
	if err != nil || token == nil {
		return err
	}
	if token != json.Delim('[') {
		return errTags
	}
	for n := 1; d.More(); n++ {
		token, err := d.Token()
		if err != nil {
			return err
		}
		tag, ok := token.(string)
		if !ok && token != nil {
			return errTags
		}
		if n > limits.Tags {
			return errTagsMost
		}
		key := maphash.String(l.seed, tag)
		if _, again := l.known[key]; again || !ok {
			continue
		}
		if l.bytes += len(tag); l.bytes > limits.TagListBytes || len(l.Names) == limits.Tags {
			return errTagsMost
		}
		l.known[key] = struct{}{}
		l.Names = append(l.Names, tag)
	}
	_, err = d.Token()
	return err
}
