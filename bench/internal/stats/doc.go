// Package stats computes what the samples of a benchmark show: distributions of
// times and rates, means with confidence intervals, significance tests for two
// targets measured in the same rounds, and the knee of a throughput curve.
//
// All functions are pure: the same values give the same result. Random draws,
// where a method needs them, come from fixed seeds.
package stats
