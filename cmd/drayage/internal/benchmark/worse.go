package benchmark

import (
	"fmt"

	"drayage/bench"
	"drayage/cmd/drayage/internal/progress"
	"drayage/engine/fault"
)

// worseError is a regression against --baseline, the worst one.
type worseError struct{ bench.Regression }

func (e worseError) Error() string {
	rate := func(v float64) string { return progress.Size(int64(v)) + "/s" }
	return fmt.Sprintf("%s fell by %.0f %%, from %s to %s", e.What, 100*e.Fraction, rate(e.Was), rate(e.Is))
}

// FaultKind is its kind: see fault.Of.
func (worseError) FaultKind() fault.Kind { return fault.Worse }
