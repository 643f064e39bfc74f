package images

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"unicode/utf8"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/status"
	archives "drayage/engine/archive"
	"drayage/engine/reference"
	"drayage/engine/textfile"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
)

// ReadSince reads what a file says was carried: digests, or images with them and
// the flags that they were pulled with. A text has one a line, with comments from #
// on; all else is an archive.
func ReadSince(ctx context.Context, path string, stdin io.Reader, ratio compress.MaxRatio) (digests []digest.Digest, refs []reference.Image, with string, err error) {
	text, rest, err := asText(path, stdin)
	if err != nil {
		return nil, nil, "", err
	}
	if rest != nil { // a pipe, which can be read but once
		path = "-"
	}
	if text == nil {
		digests, err := archives.Digests(ctx, path, rest, ratio)
		return digests, nil, "", err
	}
	defer text.Close()
	n := 0
	const wide = 2 // bytes of a character in UTF-16
	err = textfile.EachLine(text, wide*limits.ListBytes, func(line string) error {
		n++
		if flags, ok := strings.CutPrefix(line, LockWith+" "); ok {
			with = strings.TrimSpace(flags)
		}
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			return nil
		}
		if len(digests) >= limits.ListDigests || len(refs) >= limits.ListImages {
			return status.Misuse(fmt.Errorf("more than %d digests, or %d images", limits.ListDigests, limits.ListImages))
		}
		if d := digest.Digest(line); d.Validate() == nil {
			digests = append(digests, digest.Digest(strings.Clone(line)))
			return nil
		}
		ref, err := reference.Parse(line)
		if err != nil || ref.Digest() == "" {
			return status.Misuse(fmt.Errorf("line %d is neither a digest nor an image with one: %.80q", n, line))
		}
		refs = append(refs, ref)
		return nil
	})
	if err != nil {
		return nil, nil, "", err
	}
	return digests, refs, with, nil
}

// asText opens a file of text, or standard input for "-". text is nil for what is none; then
// rest is all of it, if it can't be opened again.
func asText(path string, stdin io.Reader) (text io.ReadCloser, rest io.Reader, err error) {
	in := io.NopCloser(stdin)
	again := false
	if path != "-" {
		f, err := durable.OpenNamed(path)
		if errors.Is(err, fs.ErrNotExist) {
			if _, volume := os.Stat(path + ".001"); volume == nil {
				return nil, nil, nil // which is for who reads archives
			}
		}
		if err != nil {
			return nil, nil, err
		}
		info, err := f.Stat()
		if err != nil || info.IsDir() {
			return nil, nil, errors.Join(err, f.Close())
		}
		in, again = f, info.Mode().IsRegular()
	}
	buffered := bufio.NewReader(in)
	head, err := buffered.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, errors.Join(err, in.Close())
	}
	for n := 0; !textfile.IsUTF16(head) && n < utf8.UTFMax && len(head) > 0 && !utf8.Valid(head); n++ {
		head = head[:len(head)-1] // it may end within a character
	}
	// A tar's first name ends with a zero byte, and compressed files have some
	// byte that no text has.
	if textfile.IsUTF16(head) || utf8.Valid(head) && bytes.IndexFunc(head, func(r rune) bool { return r < '\t' }) < 0 {
		if len(head) == 0 && !again {
			return nil, buffered, nil // nothing came by a pipe: no archive either
		}
		return struct {
			io.Reader
			io.Closer
		}{buffered, in}, nil, nil
	}
	if again {
		return nil, nil, in.Close()
	}
	return nil, buffered, nil
}
