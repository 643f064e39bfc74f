package stats

import "slices"

// kneeShare is the share of the best throughput that the knee reaches.
const kneeShare = 0.95

// Knee returns the smallest of some numbers of connections that reaches 95 % of
// the best throughput, or 0 if there is no throughput. throughput[i] belongs to
// connections[i]; the order does not matter.
func Knee(connections []int, throughput []float64) int {
	if len(connections) == 0 {
		return 0
	}
	best := slices.Max(throughput)
	knee := 0
	for i, n := range connections {
		if throughput[i] >= kneeShare*best && best > 0 && (knee == 0 || n < knee) {
			knee = n
		}
	}
	return knee
}
