package blobstore_test

import (
	"errors"
	"path/filepath"
	"testing"

	"drayage/blobstore"

	"github.com/opencontainers/go-digest"
)

// A draft gets the name that its content has, by the algorithm it was begun with, and no other.
func TestDraftHashesWhatIsWritten(t *testing.T) {
	s, l := open(t, filepath.Join(t.TempDir(), "store"))
	for _, algorithm := range []digest.Algorithm{"", digest.SHA256, digest.SHA512} {
		draft, err := l.Draft(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		content := "content of " + string(algorithm)
		for _, part := range []string{content[:3], "", content[3:]} {
			if _, err := draft.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		want := digest.FromString(content)
		if algorithm != "" {
			want = algorithm.FromString(content)
		}
		wrong := want.Algorithm().FromString("something else")
		if _, err := draft.Commit(wrong); !errors.Is(err, blobstore.ErrMismatch) {
			t.Errorf("%q: committing under another digest: %v", algorithm, err)
		}
		if _, err := s.Stat(wrong); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("%q: the other digest is there: %v", algorithm, err)
		}
		got, err := draft.Commit(want)
		if err != nil || got.Digest != want || got.Size != int64(len(content)) {
			t.Errorf("%q: committed %v, %v; want %s", algorithm, got, err, want)
		}
		if err := draft.Close(); err != nil {
			t.Error(err)
		}
		if raw, err := s.Read(want, 100); err != nil || string(raw) != content {
			t.Errorf("%q: read %q, %v", algorithm, raw, err)
		}
	}
	if _, err := l.Draft("md5"); !errors.Is(err, digest.ErrDigestUnsupported) {
		t.Errorf("a draft of an unknown algorithm: %v", err)
	}
}

// What is not committed leaves nothing behind.
func TestDraftsAndScratchAreGoneOnceClosed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	_, l := open(t, dir)
	draft, err := l.Draft("")
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := l.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := scratch.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2)
	if _, err := scratch.ReadAt(got, 1); err != nil || string(got) != "bc" {
		t.Errorf("scratch has %q, %v", got, err)
	}
	if err := errors.Join(scratch.Sync(), scratch.Close(), draft.Close()); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "ingest", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
