package tarwriter

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	tarBlock = 512
	// piece is how much is copied between two looks at the context: at 200
	// MB/s less than a tenth of a second.
	piece = 16 << 20
)

// alignment is where a member's data starts: at a multiple of so many bytes.
//
// A multiple of 4096, the block of every file system that shares extents, lets
// the copy be a reflink. Where bytes are copied after all, the page cache does
// so in units of 64 KiB, and at other offsets takes them apart: composing 512
// MiB on ext4 took 1.4 times as long as at multiples of 64 KiB (make bench).
// Small members are not worth the padding.
func alignment(size int64) int64 {
	switch {
	case size >= 1<<20:
		return 64 << 10
	case size >= 16<<10:
		return 4096
	}
	return tarBlock
}

// trailer ends a tar (POSIX pax, "ustar Interchange Format"): two zero blocks.
const trailer = 2 * tarBlock

// Size is the exact size in bytes of the tar that Write makes of members.
func Size(members []Member) (int64, error) {
	var at int64
	for _, m := range members {
		h, err := header(m, at)
		if err != nil {
			return 0, err
		}
		at = padded(at + int64(len(h)) + m.Size)
	}
	return at + trailer, nil
}

// Moved says how the bytes of blobs got into an archive.
type Moved struct {
	Cloned int64 // shared with the store: the file system has them once
	Kernel int64 // copied by the kernel, never through this process
	ByHand int64 // copied through this process
}

func (m *Moved) add(n Moved) {
	m.Cloned += n.Cloned
	m.Kernel += n.Kernel
	m.ByHand += n.ByHand
}

// Write writes members to w as a tar. progress, if not nil, is called with the
// number of bytes after each step. Write stops between two steps when ctx is
// done.
//
// Where w is a file that can take bytes from another within the kernel, they
// never come through this process; see mover.
func Write(ctx context.Context, w io.Writer, members []Member, blobs Blobs, progress func(n int64)) (Moved, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	out := mover{w: w}
	var at int64
	for _, m := range members {
		h, err := header(m, at)
		if err != nil {
			return out.moved, err
		}
		if _, err := w.Write(h); err != nil {
			return out.moved, fmt.Errorf("writing the archive: %w", err)
		}
		progress(int64(len(h)))
		if err := writeContent(ctx, &out, m, blobs, progress); err != nil {
			return out.moved, err
		}
		end := at + int64(len(h)) + m.Size
		at = padded(end)
		if _, err := w.Write(make([]byte, at-end)); err != nil {
			return out.moved, fmt.Errorf("writing the archive: %w", err)
		}
		progress(at - end)
	}
	if _, err := w.Write(make([]byte, trailer)); err != nil {
		return out.moved, fmt.Errorf("writing the archive: %w", err)
	}
	progress(trailer)
	return out.moved, nil
}

// writeContent writes a member's bytes, and exactly as many as its size says.
func writeContent(ctx context.Context, out *mover, m Member, blobs Blobs, progress func(int64)) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if m.Blob == "" {
		if _, err := out.w.Write(m.Content); err != nil {
			return fmt.Errorf("writing %s: %w", m.Name, err)
		}
		progress(m.Size)
		return nil
	}
	f, err := openBlob(ctx, blobs, m)
	if err != nil {
		return err
	}
	defer f.Close()
	for left := m.Size; left > 0; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := out.move(f, m.Size-left, left)
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", m.Name, err)
		}
		left -= n
		progress(n)
	}
	return nil
}

// header is a member's header at an offset of the archive. For large members
// it has such a length that the data after it is aligned:
// the gap is filled by a comment in a PAX extended header, which readers skip
// (POSIX pax, "pax Extended Header").
func header(m Member, at int64) ([]byte, error) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: m.Name, Size: m.Size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if m.Link != "" {
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, m.Link, 0o777
	}
	plain, err := encode(h)
	align := alignment(m.Size)
	if err != nil || (at+int64(len(plain)))%align == 0 {
		return plain, err
	}
	gap := align - at%align // what the header has to fill
	// The extended header has a block of its own and at least one of records.
	// One that already is there, for a size of over 8 GiB, lies in it.
	if gap < 3*tarBlock {
		gap += align
	}
	// Records are padded to whole blocks, so any comment within half a block of
	// the right length gives the right number of them: the record's own length
	// and name, and a size record, take fewer than 64 bytes.
	records := gap - 2*tarBlock
	h.Format = tar.FormatPAX
	h.PAXRecords = map[string]string{"comment": strings.Repeat(" ", int(records-tarBlock/2))}
	filled, err := encode(h)
	if err == nil && int64(len(filled)) != gap {
		panic(fmt.Sprintf("tarwriter: header of %d bytes where %d were planned", len(filled), gap))
	}
	return filled, err
}

func encode(h *tar.Header) ([]byte, error) {
	var b bytes.Buffer
	// The writer is not closed: it would want the data.
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, fmt.Errorf("archive member %s: %w", h.Name, err)
	}
	return b.Bytes(), nil
}

// padded rounds up to whole tar blocks.
func padded(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }
