package units

import (
	"fmt"

	"drayage/cmd/drayage/internal/status"
	"drayage/tarwriter/compress"

	"github.com/spf13/pflag"
)

// UnpackRatio is the flag for how far anything may unpack.
type UnpackRatio int64

// Add adds the flag to a command's.
func (m *UnpackRatio) Add(f *pflag.FlagSet) {
	f.Int64Var((*int64)(m), "max-ratio", compress.Ratio, "refuse what expands to more than `N` times its size and 64 MiB (0: no limit)")
}

// Limit is the flag's value for package limits.
func (m UnpackRatio) Limit() compress.MaxRatio {
	if m == 0 {
		return -1
	}
	return compress.MaxRatio(m)
}

// Check finds out whether it is a ratio.
func (m UnpackRatio) Check() error {
	if m < 0 {
		return status.Misuse(fmt.Errorf("--max-ratio %d: must not be negative; 0 means no limit", m))
	}
	return nil
}
