package compress_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"drayage/tarwriter/compress"
)

// FuzzReader decompresses anything: it ends, or goes on within limits. What was compressed here
// comes out as it went in.
func FuzzReader(f *testing.F) {
	for _, format := range []compress.Format{compress.None, compress.Gzip, compress.Zstd} {
		var b bytes.Buffer
		z := compress.NewWriter(&b, format)
		_, err := z.Write([]byte("hello hello hello"))
		if err := errors.Join(err, z.Close()); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
		f.Add(append(bytes.Clone(b.Bytes()), b.Bytes()...))
	}
	for _, s := range []string{"BZh91AY&SY", "\xfd7zXZ\x00", "PK\x03\x04", "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", "\x28\xb5\x2f\xfd\x00\xff\xff\xff\xff", "\x1f\x8b\x08\xff\xff\xff\xff\xff\xff\xff", "\x28\xb5\x2f\xfd\xe4\xff\xff\xff\xff\xff\xff\xff\xff", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, format, err := compress.NewReader(bytes.NewReader(raw))
		if err != nil {
			return
		}
		const most = 8 << 20
		out, err := io.ReadAll(io.LimitReader(r, most))
		_ = r.Close() // it may tell the same error again
		if format == compress.None && (err != nil || !bytes.Equal(out, raw)) {
			t.Errorf("what is not compressed comes as %q, %v", out, err)
		}
		if err != nil || len(out) > 64<<10 {
			return
		}
		for _, format := range []compress.Format{compress.Gzip, compress.Zstd} {
			var b bytes.Buffer
			z := compress.NewWriter(&b, format)
			_, err := z.Write(out)
			if err := errors.Join(err, z.Close()); err != nil {
				t.Fatal(err)
			}
			back, got, err := compress.NewReader(&b)
			if err != nil || got != format {
				t.Fatalf("%s is %s, %v", format, got, err)
			}
			same, err := io.ReadAll(back)
			if err = errors.Join(err, back.Close()); err != nil || !bytes.Equal(same, out) {
				t.Errorf("%s gives %q for %q, %v", format, same, out, err)
			}
		}
	})
}
