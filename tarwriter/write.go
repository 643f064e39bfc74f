package tarwriter

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

const tarBlock = 512

// alignment is the number of bytes that the offset of a member's data is a multiple of.
//
// 4096 is the block size of every file system that shares extents, and lets the copy be a reflink.
// Where bytes are copied after all, the page cache works in units of 64 KiB and splits them at
// other offsets: writing 512 MiB on ext4 took 1.4 times as long as at multiples of 64 KiB (make
// bench). Small members are not worth the padding.
func alignment(size int64) int64 {
	switch {
	case size >= 1<<20:
		return 64 << 10
	case size >= 16<<10:
		return 4096
	}
	return tarBlock
}

// trailer is the size of the end of a tar, two blocks of zeros (POSIX pax, "ustar Interchange
// Format").
const trailer = 2 * tarBlock

// Size is the exact size in bytes of the tar that Write makes of members, before compression. An
// error means that a member has a name or size that a tar cannot hold.
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

// Write writes members to w as a tar, in order, and leaves w open. progress, if not nil, is called
// with the number of bytes after each step of at most 16 MiB. When ctx is done, Write returns its
// cause after the current step.
//
// Where w is an *os.File, the kernel moves the bytes of blobs, if the system can.
func Write(ctx context.Context, w io.Writer, members []Member, blobs Blobs, progress func(n int64)) (Moved, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	out := copier{w: w}
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

// writeContent writes a member's bytes, exactly as many as its Size.
func writeContent(ctx context.Context, out *copier, m Member, blobs Blobs, progress func(int64)) error {
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

// openBlob opens a member's blob, and refuses one of another size.
func openBlob(ctx context.Context, blobs Blobs, m Member) (*os.File, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := blobs.Open(ctx, m.Blob)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != m.Size {
		err = fmt.Errorf("blob %s is damaged: %d bytes on disk, expected %d", m.Blob, info.Size(), m.Size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading blob: %w", err), f.Close())
	}
	return f, nil
}

// header is a member's header at an offset of the archive. Its length is such that the data after it
// is aligned: the gap is filled by a comment in a PAX extended header, which readers skip (POSIX
// pax, "pax Extended Header").
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
	const shortest = "13 comment= \n"
	h.Format, h.PAXRecords = tar.FormatPAX, map[string]string{"comment": " "}
	short, err := encode(h)
	if err != nil {
		return nil, err
	}
	// Records are padded to whole blocks, so any comment within half a block of the right length
	// results in the right number of them: the record's own length and its name take less than 64
	// bytes, and so does a record for a size of over 8 GiB. Those for long names count.
	known := recordsSize(short) - int64(len(shortest))
	if known < tarBlock/4 {
		known = 0
	}
	gap := align - at%align // what the header has to fill
	// The extended header has a block of its own and at least one of records.
	for gap < 3*tarBlock+known {
		gap += align
	}
	h.PAXRecords["comment"] = strings.Repeat(" ", int(gap-2*tarBlock-known-tarBlock/2))
	filled, err := encode(h)
	if err == nil && int64(len(filled)) != gap {
		panic(fmt.Sprintf("tarwriter: header of %d bytes where %d were planned", len(filled), gap))
	}
	return filled, err
}

// recordsSize is how many bytes of records the extended header has that a header begins with (POSIX
// pax, "ustar Interchange Format": the size is at 124).
func recordsSize(header []byte) int64 {
	n, err := strconv.ParseInt(strings.Trim(string(header[124:136]), " \x00"), 8, 64)
	if err != nil {
		panic(fmt.Sprintf("tarwriter: header of size %q", header[124:136])) // encode wrote it
	}
	return n
}

// encode is a header as archive/tar writes it.
func encode(h *tar.Header) ([]byte, error) {
	var b bytes.Buffer
	// The writer is not closed, which would require the data.
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, fmt.Errorf("archive member %s: %w", h.Name, err)
	}
	return b.Bytes(), nil
}

// padded rounds up to whole tar blocks.
func padded(n int64) int64 { return (n + tarBlock - 1) / tarBlock * tarBlock }
