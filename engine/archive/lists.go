package archive

import (
	"errors"
	"fmt"
	"io"

	"drayage/blobstore"
	"drayage/engine/compose"
	"drayage/engine/internal/limits"
	"drayage/engine/jsonstream"
	"drayage/engine/printable"
	"drayage/tarwriter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is noted of an entry beside its text, in bytes of memory.
const (
	costOfEntry  = 300
	costOfMap    = 350
	costOfString = 48
	costOfRef    = 16
	costOfText   = 100 // of what is kept in a file
	costOfBlob   = 220 // of a digest in the maps that have it
)

// costOf is what texts take, in bytes of memory: twice their size, since the collector lets garbage
// grow as large as what is in use.
func costOf(texts ...string) int {
	n := 0
	for _, t := range texts {
		n += 2 * len(t)
	}
	return n
}

// dockerImage is an entry of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string

	config digest.Digest // what Config names, once that is known
	tried  bool          // the rest is known
	root   *blobstore.Root
	err    error
	told   bool // index.json has the same image, and neither half of it is right, which was told
}

// notes counts the memory that is taken by what is noted of an archive, in bytes, as well as that
// can be told from outside: whoever made the archive decides how much there is to note.
type notes struct {
	taken int64
	own   int64 // bytes of the archive itself, as far as that is known yet
	held  int64 // bytes of memory that reading it may take
}

// add takes memory, or refuses to. The error wraps errInvalid.
func (n *notes) add(bytes int) error {
	n.taken += int64(bytes)
	if most := min(limits.ArchiveNotes-n.held+n.own/limits.ArchiveNotesShare, limits.ArchiveNotesMost); n.taken > most {
		return fmt.Errorf("%w: too many images, names and blobs for its size: they take more than %d MiB of memory", errTooMuch, most>>20)
	}
	return nil
}

// errTooMuch is wrapped for what exceeds a bound: then the whole archive is refused, and not only
// one of its lists. It is an errInvalid.
var errTooMuch = fmt.Errorf("%w", errInvalid)

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
	entries []*T  // a list of the entries themselves would be copied while it grows
	blank   bool  // there is nothing in the file
	err     error // why it can't be used
}

// repoTag is an entry of repositories.
type repoTag struct{ repo, tag, top string }

// read reads one of the files. The error is one of reading, or wraps errTooMuch; what is wrong
// with the file is in its list.
func (l *lists) read(m member) error {
	if m.size > limits.ArchiveListBytes {
		return fmt.Errorf("%w: %q has %d bytes", errTooMuch, printable.Line(m.name), m.size)
	}
	in := &readErrors{r: m.body}
	s := jsonstream.New(in, l.notes.add)
	blank := s.Blank()
	var err error
	switch m.name {
	case ocispec.ImageIndexFile:
		l.index = &list[ocispec.Descriptor]{blank: blank}
		err = l.readIndex(s)
		l.index.err = err
	case manifestFile:
		l.manifest = &list[dockerImage]{blank: blank}
		err = l.readManifest(s)
		l.manifest.err = err
	case reposFile:
		l.repos = &list[repoTag]{blank: blank}
		err = l.readRepos(s)
		l.repos.err = err
	case deltaFile:
		l.delta = &list[tarwriter.Absent]{blank: blank}
		l.since, err = readDelta(s, func(a tarwriter.Absent) error {
			l.delta.entries = append(l.delta.entries, &a)
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
	case errors.Is(err, jsonstream.ErrTooMuch):
		return fmt.Errorf("%w: %s: %w", errTooMuch, m.name, err)
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
	if !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// readIndex reads an index ("OCI Image Index Specification").
func (l *lists) readIndex(s *jsonstream.Reader) error {
	err := s.Fields([]string{"manifests"}, func(string) error {
		if s.Null() {
			return nil
		}
		return s.Array(func() error {
			var d ocispec.Descriptor
			size, err := s.Entry(&d)
			if err != nil {
				return err
			}
			kept := noted(d)
			l.index.entries = append(l.index.entries, &kept)
			return l.notes.add(costOfEntry + costOfMap + 2*size)
		})
	})
	return s.EndAfter(err)
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
func (l *lists) readManifest(s *jsonstream.Reader) error {
	err := s.Array(func() error {
		var e dockerImage
		if _, err := s.Entry(&e); err != nil {
			return err
		}
		cost := costOfEntry + costOf(e.Config)
		for _, tag := range e.RepoTags {
			cost += costOfString + costOf(tag)
		}
		layers := make([]string, len(e.Layers)) // as many as there are, and each text once
		for i, name := range e.Layers {
			known, ok := l.texts[name]
			if !ok {
				known = name
				l.texts[name] = name
				cost += 2*costOfString + costOf(name)
			}
			layers[i] = known
			cost += costOfRef
		}
		e.Layers = layers
		l.manifest.entries = append(l.manifest.entries, &e)
		return l.notes.add(cost)
	})
	return s.EndAfter(err)
}

// readRepos reads the names of docker save's oldest format: {"repository": {"tag": "layer"}}.
func (l *lists) readRepos(s *jsonstream.Reader) error {
	err := s.Object(func(repo string) error {
		return s.Object(func(tag string) error {
			var top string
			if _, err := s.Entry(&top); err != nil {
				return err
			}
			l.repos.entries = append(l.repos.entries, &repoTag{repo, tag, top})
			return l.notes.add(costOfEntry + costOf(repo, tag, top))
		})
	})
	return s.EndAfter(err)
}

// readDelta reads what an archive says of the layers that it leaves out, and calls f with each.
// The result is what it builds on.
func readDelta(s *jsonstream.Reader, f func(tarwriter.Absent) error) (since digest.Digest, err error) {
	version := 0
	err = s.Fields([]string{"version", "since", "absent"}, func(name string) error {
		switch name {
		case "version":
			_, err := s.Entry(&version)
			return err
		case "since":
			_, err := s.Entry(&since)
			return err
		}
		if s.Null() {
			return nil
		}
		return s.Array(func() error {
			var a tarwriter.Absent
			if _, err := s.Entry(&a); err != nil {
				return err
			}
			if a.Digest.Validate() != nil || a.Size < 0 {
				return fmt.Errorf("%w: %s has a malformed digest or size", errInvalid, deltaFile)
			}
			return f(a)
		})
	})
	if err = s.EndAfter(err); err != nil {
		if errors.Is(err, errInvalid) {
			return since, err
		}
		return since, fmt.Errorf("%w: %s: %w", errInvalid, deltaFile, err)
	}
	if version != tarwriter.DeltaVersion {
		return since, fmt.Errorf("%w: %s of version %d, from a newer drayage", errInvalid, deltaFile, version)
	}
	if since != "" && since.Validate() != nil {
		since = ""
	}
	return since, nil
}
