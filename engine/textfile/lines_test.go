package textfile_test

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"drayage/engine/textfile"

	"github.com/google/go-cmp/cmp"
)

func linesOf(raw string, limit int64) ([]string, error) {
	var out []string
	err := textfile.EachLine(iotest.OneByteReader(strings.NewReader(raw)), limit, func(line string) error {
		out = append(out, line)
		return nil
	})
	return out, err
}

func TestEachLine(t *testing.T) {
	wide := func(s string, little bool) string {
		var b strings.Builder
		for _, r := range s {
			if little {
				b.WriteByte(byte(r))
			}
			b.WriteByte(byte(r >> 8))
			if !little {
				b.WriteByte(byte(r))
			}
		}
		return b.String()
	}
	for _, c := range []struct {
		name, raw string
		want      []string
	}{
		{"nothing", "", nil},
		{"one", "a", []string{"a"}},
		{"one that ends", "a\n", []string{"a"}},
		{"ends of all kinds", "a\r\nb\rc\n\nd", []string{"a", "b", "c", "", "d"}},
		{"a mark", "\xef\xbb\xbfa\nb", []string{"a", "b"}},
		{"UTF-16 of Windows", "\xff\xfe" + wide("one é\r\ntwo\r\n", true), []string{"one é", "two"}},
		{"the other order", "\xfe\xff" + wide("one\ntwo", false), []string{"one", "two"}},
		{"UTF-16 without a mark", wide("some words\r\nmore", true), []string{"some words", "more"}},
		{"a pair", "\xff\xfe\x3d\xd8\x00\xde\n\x00", []string{"😀"}},
		{"half a pair", "\xff\xfe\x3d\xd8a\x00\n\x00", []string{"\ufffda"}},
	} {
		got, err := linesOf(c.raw, 100)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
	for _, c := range []struct {
		name, raw string
		limit     int64
		want      error
	}{
		{"no text", "a\xff\xffb", 100, textfile.ErrEncoding}, {"a zero byte", "abcdefgh\x00\n", 100, textfile.ErrEncoding},
		{"half a unit", "\xff\xfea\x00b", 100, textfile.ErrEncoding}, {"large", "12345", 4, textfile.ErrTooLarge},
		{"a long line", strings.Repeat("x", textfile.MostLine+1), 1 << 20, textfile.ErrLine},
	} {
		if _, err := linesOf(c.raw, c.limit); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := linesOf("1234", 4); err != nil {
		t.Error(err)
	}
}

// EachLine and Decode read the same.
func FuzzEachLine(f *testing.F) {
	f.Add("a\r\nb")
	f.Add("\xff\xfea\x00\n\x00")
	f.Fuzz(func(t *testing.T, raw string) {
		whole, errWhole := textfile.Decode([]byte(raw))
		got, err := linesOf(raw, int64(len(raw)))
		if errWhole != nil || err != nil {
			if errWhole == nil {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		var want []string
		for line := range strings.Lines(string(whole)) {
			want = append(want, strings.TrimSuffix(line, "\n"))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", raw, diff)
		}
	})
}
