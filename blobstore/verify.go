package blobstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"drayage/blobstore/internal/files"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Verification says how blobs are verified.
type Verification struct {
	// Limit, if not nil, is waited for with every byte that is read.
	Limit *rate.Limiter
	// Again begins anew where an earlier verification was interrupted.
	Again bool
	// Progress, if not nil, is told of bytes that were read, from many goroutines.
	Progress func(n int64)
}

// Verified is what verifying found.
type Verified struct {
	Blobs   int             // that are what they should be, with those that an interrupted run had found so
	Bytes   int64           // of them
	Damaged []digest.Digest // that were not, and are in quarantine now
	Resumed int             // of Blobs, those of the interrupted run
}

// verifyFile is how far a verification has come when it was interrupted.
type verifyFile struct {
	Version int           `json:"version"`
	Started time.Time     `json:"started"`
	Done    digest.Digest `json:"done"` // all blobs up to this one, by their digests
}

const (
	verifyVersion = 1
	verifyFor     = 7 * 24 * time.Hour // how long it is of use
)

// Verify reads all blobs and holds them against their digests, on all cores. What is
// damaged is moved to quarantine, and fetched anew by the next pull. One that is
// interrupted by ctx goes on from there the next time.
func (s *Store) Verify(ctx context.Context, v Verification) (Verified, error) {
	blobs, err := s.Blobs(ctx)
	if err != nil {
		return Verified{}, err
	}
	state := verifyFile{Version: verifyVersion, Started: time.Now().UTC()}
	if !v.Again {
		if old, ok := s.interrupted(); ok {
			state = old
		}
	}
	r := &verifying{store: s, v: v, state: state, ended: make(map[digest.Digest]bool)}
	for _, b := range blobs {
		if b.Digest <= state.Done {
			r.out.Blobs, r.out.Bytes, r.out.Resumed = r.out.Blobs+1, r.out.Bytes+b.Size, r.out.Resumed+1
		} else {
			r.left = append(r.left, b)
		}
	}
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, b := range r.left {
		if inner.Err() != nil {
			break
		}
		group.Go(func() error { return r.blob(inner, b) })
	}
	err = group.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	slices.Sort(r.out.Damaged)
	if err != nil {
		return r.out, errors.Join(err, r.keep())
	}
	if err := os.Remove(s.paths.Verified()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r.out, fmt.Errorf("verifying: %w", err)
	}
	return r.out, nil
}

// interrupted is where an earlier verification has stopped.
func (s *Store) interrupted() (verifyFile, bool) {
	raw, err := os.ReadFile(s.paths.Verified())
	var f verifyFile
	if err != nil || json.Unmarshal(raw, &f) != nil || f.Version != verifyVersion || f.Done.Validate() != nil || time.Since(f.Started) > verifyFor {
		return verifyFile{}, false
	}
	return f, true
}

// verifying is a run of Verify.
type verifying struct {
	store *Store
	v     Verification
	state verifyFile
	left  []Stored // by digest

	mu    sync.Mutex
	out   Verified
	ended map[digest.Digest]bool
}

// blob verifies one.
func (r *verifying) blob(ctx context.Context, b Stored) error {
	ok, err := r.hashes(ctx, b.Digest)
	if errors.Is(err, ErrNotFound) { // swept meanwhile
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended[b.Digest] = true
		return nil
	}
	if err == nil && !ok {
		ok, err = r.bad(b.Digest)
	}
	if err == nil && ok {
		r.store.stampBlob(b.Digest)
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended[b.Digest] = true
	if ok {
		r.out.Blobs++
		r.out.Bytes += b.Size
	} else {
		r.out.Damaged = append(r.out.Damaged, b.Digest)
	}
	return nil
}

// bad moves a blob to quarantine, which looks at it once more.
func (r *verifying) bad(d digest.Digest) (ok bool, err error) {
	gone, err := r.store.quarantine(d)
	return !gone, err
}

// hashes reports whether a blob has the content of its name. A blob that can't be read
// hasn't.
func (r *verifying) hashes(ctx context.Context, d digest.Digest) (bool, error) {
	f, err := r.store.Open(d)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return files.Hashes(ctx, f, d, files.Pace{Limit: r.v.Limit, Progress: r.v.Progress})
}

// keep notes how far it has come.
func (r *verifying) keep() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.left {
		if !r.ended[b.Digest] {
			break
		}
		r.state.Done = b.Digest
	}
	if r.state.Done == "" {
		return nil
	}
	raw, err := json.Marshal(r.state)
	if err != nil {
		return err
	}
	unlock, err := r.store.lock()
	if err != nil {
		return fmt.Errorf("verifying: %w", err)
	}
	defer unlock()
	return files.Replace(r.store.paths.Verified(), raw, false)
}
