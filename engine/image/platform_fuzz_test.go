package image_test

import (
	"strings"
	"testing"

	"drayage/engine/image"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzPlatform reads what people type for platforms. One reads the same again as it is shown, and
// takes an image that says to be for it.
func FuzzPlatform(f *testing.F) {
	for _, s := range []string{"linux/amd64", "arm64", "linux/arm/v7", "windows(10.0.17763)/amd64", "aarch64", "linux/x86_64/v3", "LINUX/AMD64", "//", "linux/", "a/b/c/d", "linux/arm64/v8", "(", "windows()/amd64", "linux/\x1b", "darwin(1+a+b)/arm64", "linux/arm/7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := image.ParsePlatform(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("not one line: %q", err)
			}
			return
		}
		again, err := image.ParsePlatform(p.String())
		if err != nil || again.String() != p.String() {
			t.Errorf("%q is %q, and that is %q, %v", s, p, again, err)
		}
		parts := strings.Split(p.String(), "/")
		system, version, _ := strings.Cut(strings.TrimSuffix(parts[0], ")"), "(")
		own := ocispec.Platform{OS: system, OSVersion: version, Architecture: parts[1]}
		if len(parts) > 2 {
			own.Variant = parts[2]
		}
		if !p.Matches(own) {
			t.Errorf("%q, which is %q, doesn't take %+v", s, p, own)
		}
	})
}
