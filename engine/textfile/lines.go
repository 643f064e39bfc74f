package textfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// mostLine is the longest line that EachLine reads, in bytes.
const mostLine = 64 << 10

// ErrLine is wrapped for a line that is longer.
var ErrLine = errors.New("line too long")

// EachLine calls f with each line of a text file of at most limit bytes, without its end, which
// may be a line feed, a carriage return, or both. It reads what Decode reads, and holds no more
// than a line of it. Errors are those of r and f, or wrap ErrEncoding, ErrTooLarge or ErrLine.
func EachLine(r io.Reader, limit int64, f func(line string) error) error {
	in := bufio.NewReader(&counted{r: r, left: limit, limit: limit})
	const look = 512
	head, err := in.Peek(look)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	next := in.ReadByte
	if order, ok := utf16Order(head); ok {
		u := &fromUTF16{in: in, order: order.Uint16}
		next = u.ReadByte
	} else if bytes.HasPrefix(head, markUTF8) {
		if _, err := in.Discard(len(markUTF8)); err != nil {
			return err
		}
	}
	var line []byte
	give := func() error {
		if !utf8.Valid(line) || bytes.IndexByte(line, 0) >= 0 {
			return ErrEncoding
		}
		err := f(string(line))
		line = line[:0]
		return err
	}
	for cr := false; ; {
		c, err := next()
		if errors.Is(err, io.EOF) {
			if len(line) == 0 {
				return nil
			}
			return give()
		}
		if err != nil {
			return err
		}
		switch {
		case c == '\n' && cr: // the line has ended
			cr = false
		case c == '\n' || c == '\r':
			cr = c == '\r'
			if err := give(); err != nil {
				return err
			}
		case len(line) >= mostLine:
			return fmt.Errorf("%w: more than %d bytes", ErrLine, mostLine)
		default:
			cr = false
			line = append(line, c)
		}
	}
}

// counted reads at most so many bytes, and more of them are an error.
type counted struct {
	r           io.Reader
	left, limit int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(int64(len(p)), c.left+1)])
	if c.left -= int64(n); c.left < 0 {
		return n, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, c.limit)
	}
	return n, err
}

// fromUTF16 reads UTF-16 as UTF-8.
type fromUTF16 struct {
	in    *bufio.Reader
	order func([]byte) uint16
	begun bool
	ready []byte // of a character
	kept  rune   // that was read after half a pair of surrogates, or 0
}

func (u *fromUTF16) ReadByte() (byte, error) {
	for len(u.ready) == 0 {
		r, err := u.unit()
		if err != nil {
			return 0, err
		}
		if !u.begun {
			u.begun = true
			const mark = 0xfeff
			if r == mark {
				continue
			}
		}
		if utf16.IsSurrogate(r) {
			second, err := u.unit()
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			pair := utf16.DecodeRune(r, second)
			if pair == utf8.RuneError && err == nil {
				u.kept = second
			}
			r = pair
		}
		u.ready = utf8.AppendRune(nil, r)
	}
	c := u.ready[0]
	u.ready = u.ready[1:]
	return c, nil
}

// unit is the next one of 16 bits.
func (u *fromUTF16) unit() (rune, error) {
	if r := u.kept; r != 0 {
		u.kept = 0
		return r, nil
	}
	var two [2]byte
	_, err := io.ReadFull(u.in, two[:])
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fmt.Errorf("%w: truncated UTF-16", ErrEncoding)
	}
	return rune(u.order(two[:])), err
}
