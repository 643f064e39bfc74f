package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"drayage/engine"
	archives "drayage/engine/archive"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// carried is what --since says that the receiver has: the blobs of an archive, of
// a list of digests, or of the images of a lock.
func (o *pullOptions) carried(ctx context.Context, opts engine.Options) (map[digest.Digest]bool, error) {
	if o.since == "" {
		return nil, nil
	}
	digests, refs, err := readSince(ctx, o.since)
	if err != nil {
		return nil, fmt.Errorf("--since %s: %w", o.since, err)
	}
	if len(refs) > 0 {
		results, _, err := engine.Plan(ctx, opts, refs)
		if err != nil {
			return nil, err
		}
		if failed := engine.Failures(results); len(failed) > 0 {
			return nil, fmt.Errorf("--since %s: %w", o.since, failures(failed))
		}
		for _, r := range results {
			digests = append(digests, r.Image.Digests()...)
		}
	}
	o.base = make(map[digest.Digest]bool, len(digests))
	for _, d := range digests {
		o.base[d] = true
	}
	return o.base, nil
}

// readSince reads what a file says was carried: digests, or images with them. A
// text has one a line, with comments from # on; all else is an archive.
func readSince(ctx context.Context, path string) ([]digest.Digest, []reference.Image, error) {
	text, err := asText(path)
	if err != nil {
		return nil, nil, err
	}
	if text == nil {
		digests, err := archives.Digests(ctx, path)
		return digests, nil, err
	}
	var digests []digest.Digest
	var refs []reference.Image
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if d := digest.Digest(line); d.Validate() == nil {
			digests = append(digests, d)
			continue
		}
		ref, err := reference.Parse(line)
		if err != nil || ref.Digest() == "" {
			return nil, nil, usageError{fmt.Errorf("line %d is neither a digest nor an image with one: %.80q", n, line)}
		}
		refs = append(refs, ref)
	}
	return digests, refs, nil
}

// asText reads a file of text, or returns nil for one that is none.
func asText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return nil, err
	}
	const most = 256 << 20 // of digests; two million
	in := bufio.NewReader(f)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// A tar's first name ends with a zero byte, and compressed files have some
	// byte that no text has.
	if bytes.IndexFunc(head, func(r rune) bool { return r < '\t' || r == '\uFFFD' }) >= 0 {
		return nil, nil
	}
	return io.ReadAll(io.LimitReader(in, most))
}
