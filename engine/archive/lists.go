package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"drayage/blobstore"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/limits"
	"drayage/tarwriter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is noted of an entry beside its text, in bytes of memory.
const (
	costOfEntry  = 300
	costOfString = 48
	costOfRef    = 16
	costOfBlob   = 220 // of a digest in the maps that have it
)

// dockerImage is an entry of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string

	config digest.Digest // what Config names, once that is known
	tried  bool          // the rest is known
	root   blobstore.Root
	err    error
	told   bool // index.json has the same image, and neither half of it is right, which was told
}

// lists are the files of an archive that say what it has, as far as they were there. They are
// read as streams: of their text nothing is kept but what is of use.
type lists struct {
	notes *notes
	texts map[string]string // names of layers, of which images share many

	index    *list[ocispec.Descriptor] // index.json
	manifest *list[dockerImage]        // manifest.json
	repos    *list[repoTag]            // repositories
	delta    *list[tarwriter.Absent]   // drayage-since.json
	since    digest.Digest             // of it
}

// list is one of them.
type list[T any] struct {
	entries []T
	blank   bool  // there is nothing in the file
	err     error // why it can't be used
}

// repoTag is an entry of repositories.
type repoTag struct{ repo, tag, top string }

// read reads one of the files. The error is one of reading, or wraps errTooMuch; what is wrong
// with the file is in its list.
func (l *lists) read(m member) error {
	if m.size > limits.ArchiveListBytes {
		return fmt.Errorf("%w: %q has %d bytes", errTooMuch, image.Printable(m.name), m.size)
	}
	in := &readErrors{r: m.body}
	s := newStream(in, l.notes)
	_, err := s.peek()
	blank := errors.Is(err, io.EOF)
	switch m.name {
	case ocispec.ImageIndexFile:
		l.index = &list[ocispec.Descriptor]{blank: blank}
		err = s.readIndex(l)
		l.index.err = err
	case manifestFile:
		l.manifest = &list[dockerImage]{blank: blank}
		err = s.readManifest(l)
		l.manifest.err = err
	case reposFile:
		l.repos = &list[repoTag]{blank: blank}
		err = s.readRepos(l)
		l.repos.err = err
	case deltaFile:
		l.delta = &list[tarwriter.Absent]{blank: blank}
		l.since, err = s.readDelta(func(a tarwriter.Absent) error {
			l.delta.entries = append(l.delta.entries, a)
			return l.notes.add(costOfEntry)
		})
		l.delta.err = err
	default:
		return nil // oci-layout says nothing that is of use
	}
	switch {
	case in.err != nil:
		return broken(in.err)
	case errors.Is(err, errTooMuch):
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

// readErrors remembers why a stream could not be read.
type readErrors struct {
	r   io.Reader
	err error
}

func (r *readErrors) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.err = notEOF(err)
	return n, err
}

// entry decodes an entry of a list, within the bounds of package limits.
func (s *stream) entry(v any, free map[string]bool) (size int, err error) {
	raw, err := s.value(limits.ArchiveEntryBytes)
	if err != nil {
		return 0, err
	}
	if err := limits.CheckJSON(raw, free); err != nil {
		return 0, fmt.Errorf("%w: %s", errJSON, image.Printable(err.Error()))
	}
	if json.Unmarshal(raw, v) != nil {
		return 0, errJSON
	}
	return len(raw), nil
}

// readIndex reads an index ("OCI Image Index Specification").
func (s *stream) readIndex(l *lists) error {
	err := s.fields([]string{"manifests"}, func(string) error {
		if c, err := s.peek(); err == nil && c == 'n' { // null
			return s.skip()
		}
		return s.array(func() error {
			var d ocispec.Descriptor
			size, err := s.entry(&d, map[string]bool{"annotations": true})
			if err != nil {
				return err
			}
			l.index.entries = append(l.index.entries, noted(d))
			return l.notes.add(costOfEntry + size)
		})
	})
	return errors.Join(err, s.endAfter(err))
}

// endAfter is end for what was read without an error.
func (s *stream) endAfter(err error) error {
	if err != nil {
		return nil
	}
	return s.end()
}

// noted is what is of use of a descriptor in index.json.
func noted(d ocispec.Descriptor) ocispec.Descriptor {
	out := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}
	for _, key := range []string{annotationImageName, ocispec.AnnotationRefName, compose.AnnotationOriginal, compose.AnnotationBeside, compose.AnnotationTag} {
		if v, ok := d.Annotations[key]; ok {
			if out.Annotations == nil {
				out.Annotations = make(map[string]string)
			}
			out.Annotations[key] = v
		}
	}
	return out
}

// readManifest reads what docker save says of its images.
func (s *stream) readManifest(l *lists) error {
	err := s.array(func() error {
		var e dockerImage
		if _, err := s.entry(&e, map[string]bool{"LayerSources": true}); err != nil {
			return err
		}
		cost := costOfEntry + len(e.Config)
		for _, tag := range e.RepoTags {
			cost += costOfString + len(tag)
		}
		layers := make([]string, len(e.Layers)) // as many as there are, and each text once
		for i, name := range e.Layers {
			known, ok := l.texts[name]
			if !ok {
				known = name
				l.texts[name] = name
				cost += 2*costOfString + len(name)
			}
			layers[i] = known
			cost += costOfRef
		}
		e.Layers = layers
		l.manifest.entries = append(l.manifest.entries, e)
		return l.notes.add(cost)
	})
	return errors.Join(err, s.endAfter(err))
}

// readRepos reads the names of docker save's oldest format: {"repository": {"tag": "layer"}}.
func (s *stream) readRepos(l *lists) error {
	err := s.object(func(repo string) error {
		return s.object(func(tag string) error {
			var top string
			if _, err := s.entry(&top, nil); err != nil {
				return err
			}
			l.repos.entries = append(l.repos.entries, repoTag{repo, tag, top})
			return l.notes.add(costOfEntry + len(repo) + len(tag) + len(top))
		})
	})
	return errors.Join(err, s.endAfter(err))
}

// readDelta reads what an archive says of the layers that it leaves out, and calls f with each.
// The result is what it builds on.
func (s *stream) readDelta(f func(tarwriter.Absent) error) (since digest.Digest, err error) {
	version := 0
	err = s.fields([]string{"version", "since", "absent"}, func(name string) error {
		switch name {
		case "version":
			_, err := s.entry(&version, nil)
			return err
		case "since":
			_, err := s.entry(&since, nil)
			return err
		}
		if c, err := s.peek(); err == nil && c == 'n' { // null
			return s.skip()
		}
		return s.array(func() error {
			var a tarwriter.Absent
			if _, err := s.entry(&a, nil); err != nil {
				return err
			}
			if a.Digest.Validate() != nil || a.Size < 0 {
				return fmt.Errorf("%w: %s has a malformed digest or size", ErrInvalid, deltaFile)
			}
			return f(a)
		})
	})
	if err = errors.Join(err, s.endAfter(err)); err != nil {
		if errors.Is(err, ErrInvalid) {
			return since, err
		}
		return since, fmt.Errorf("%w: %s: %w", ErrInvalid, deltaFile, err)
	}
	if version != tarwriter.DeltaVersion {
		return since, fmt.Errorf("%w: %s of version %d, from a newer drayage", ErrInvalid, deltaFile, version)
	}
	if since != "" && since.Validate() != nil {
		since = ""
	}
	return since, nil
}
