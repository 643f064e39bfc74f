package compress_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"testing"

	"drayage/tarwriter/compress"

	"github.com/klauspost/compress/zstd"
)

// content is half noise and half not, so that pieces are of all sizes.
func content(n int) []byte {
	out := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(n)})
	for i := 0; i < n; i += 4096 {
		if i/4096%2 == 0 {
			rnd.Read(out[i:min(n, i+4096)])
		}
	}
	return out
}

// squeezed compresses, written in steps of some size.
func squeezed(t *testing.T, f compress.Format, in []byte, step int) []byte {
	t.Helper()
	var out bytes.Buffer
	z := compress.NewWriter(&out, f)
	for len(in) > 0 {
		n := min(step, len(in))
		if _, err := z.Write(in[:n]); err != nil {
			t.Fatal(err)
		}
		in = in[n:]
	}
	if err := errors.Join(z.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhatWasSqueezedComesBack(t *testing.T) {
	const piece = 1 << 20
	for _, f := range []compress.Format{compress.Gzip, compress.Zstd} {
		for _, n := range []int{0, 1, piece - 1, piece, piece + 1, 5*piece + 12_345} {
			want := content(n)
			raw := squeezed(t, f, want, 70_000)
			in, got, err := compress.NewReader(bytes.NewReader(raw))
			if err != nil || got != f {
				t.Fatalf("%s of %d bytes: read as %s, %v", f, n, got, err)
			}
			back, err := io.ReadAll(in)
			if err := errors.Join(err, in.Close()); err != nil || !bytes.Equal(back, want) {
				t.Errorf("%s: %d bytes came back as %d, %v", f, n, len(back), err)
			}
		}
	}
}

// The bytes depend on the content alone: a checksum can be compared between sites.
func TestBytesDependOnTheContentAlone(t *testing.T) {
	in := content(6<<20 + 77)
	for _, f := range []compress.Format{compress.Gzip, compress.Zstd} {
		want := squeezed(t, f, in, len(in))
		before := runtime.GOMAXPROCS(1)
		one := squeezed(t, f, in, 512)
		runtime.GOMAXPROCS(7)
		seven := squeezed(t, f, in, 100_001)
		runtime.GOMAXPROCS(before)
		if !bytes.Equal(want, one) || !bytes.Equal(want, seven) {
			t.Errorf("%s depends on cores or writes", f)
		}
	}
}

// The standard library and the programs read it.
func TestOthersReadIt(t *testing.T) {
	in := content(3<<20 + 1)
	zip, err := gzip.NewReader(bytes.NewReader(squeezed(t, compress.Gzip, in, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(zip); err != nil || !bytes.Equal(got, in) {
		t.Errorf("compress/gzip: %v", err)
	}
	for program, f := range map[string]compress.Format{"gzip": compress.Gzip, "zstd": compress.Zstd} {
		path, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(t.Context(), path, "-dc")
		cmd.Stdin = bytes.NewReader(squeezed(t, f, in, 1<<20))
		if got, err := cmd.Output(); err != nil || !bytes.Equal(got, in) {
			t.Errorf("%s: %v", program, err)
		}
	}
}

// full fails after some bytes.
type full struct{ left int }

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestAFailingTargetEndsTheWriting(t *testing.T) {
	z := compress.NewWriter(&full{left: 100_000}, compress.Zstd)
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = z.Write(content(1 << 20))
	}
	if !errors.Is(err, errFull) {
		t.Errorf("Write = %v", err)
	}
	if err := z.Close(); !errors.Is(err, errFull) {
		t.Errorf("Close = %v", err)
	}
}

func TestDetect(t *testing.T) {
	for head, want := range map[string]compress.Format{"": compress.None, "hello": compress.None, "\x1f\x8b\x08": compress.Gzip, "\x28\xb5\x2f\xfd": compress.Zstd, "\x50\x2a\x4d\x18": compress.Zstd, "BZh91AY": compress.Bzip2, "BZhello": compress.None} {
		if got, err := compress.Detect([]byte(head)); err != nil || got != want {
			t.Errorf("%q: %s, %v", head, got, err)
		}
	}
	for _, head := range []string{"\xfd7zXZ\x00", "PK\x03\x04", "\x04\x22\x4d\x18"} {
		var unsupported *compress.FormatError
		if _, err := compress.Detect([]byte(head)); !errors.As(err, &unsupported) || unsupported.Name == "" || unsupported.Program == "" {
			t.Errorf("%q: %v", head, err)
		}
	}
}

// A window is memory that a stream asks for.
func TestZstdWindowsAreBounded(t *testing.T) {
	for _, c := range []struct {
		window int
		ok     bool
	}{{8 << 20, true}, {compress.MaxWindow, true}, {2 * compress.MaxWindow, false}} {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(c.window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		in := content(1 << 20)
		if _, err := z.Write(in); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(z.Flush(), z.Close()); err != nil {
			t.Fatal(err)
		}
		r, _, err := compress.NewReader(&b)
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(r)
		if c.ok && (err != nil || !bytes.Equal(in, out)) || !c.ok && err == nil {
			t.Errorf("a window of %d MiB: %d bytes, %v", c.window>>20, len(out), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
