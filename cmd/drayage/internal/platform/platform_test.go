package platform

import (
	"testing"

	"drayage/cmd/drayage/internal/status"
	"drayage/engine/image"
)

func TestPlatformIsTheDefaultOrAsGiven(t *testing.T) {
	for given, want := range map[Flag]string{"": image.DefaultPlatform().String(), "linux/arm/v7": "linux/arm/v7", "windows/amd64": "windows/amd64"} {
		if got, err := given.Platform(); err != nil || got.String() != want {
			t.Errorf("%q: %s, %v", given, got, err)
		}
	}
	if _, err := Flag("///").Platform(); !status.IsUsage(err) {
		t.Errorf("a malformed platform: %v", err)
	}
}
