package units

import (
	"fmt"

	"drayage/cmd/drayage/internal/status"
	"drayage/tarwriter/compress"

	"github.com/spf13/pflag"
)

// UnpackRatio is --max-ratio: how much larger than its compressed form content may become.
type UnpackRatio int64

// Add adds the flag to a command's.
func (m *UnpackRatio) Add(f *pflag.FlagSet) {
	f.Int64Var((*int64)(m), "max-ratio", compress.Ratio, "refuse what expands to more than `N` times its size and 64 MiB (0: no limit)")
}

// Limit is the ratio as readers of compressed content take it.
func (m UnpackRatio) Limit() compress.MaxRatio {
	if m == 0 {
		return -1
	}
	return compress.MaxRatio(m)
}

// Check rejects negative ratios.
func (m UnpackRatio) Check() error {
	if m < 0 {
		return status.Misuse(fmt.Errorf("--max-ratio %d: must be a whole number, or 0 for no limit", m))
	}
	return nil
}
