package benchmark

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"drayage/bench"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine/textfile"
)

// readOptions are options of reads to compare, with what is appended to the names of their targets.
type readOptions struct {
	bench.TargetOptions
	suffix string
}

// reads returns what --range, --whole or --profile ask for.
func (o *Options) reads(connections []int, targets int) ([]readOptions, error) {
	if o.profile != "" {
		mix, err := parseMix(o.profile)
		return []readOptions{{TargetOptions: bench.TargetOptions{Mix: mix}}}, err
	}
	if o.parts == "" {
		return []readOptions{{TargetOptions: bench.TargetOptions{RangeSize: o.defaultRange(connections, targets)}}}, nil
	}
	var out []readOptions
	words := strings.Split(o.parts, ",")
	for _, word := range words {
		n, err := rangeSize(word)
		if err != nil {
			return nil, err
		}
		r := readOptions{TargetOptions: bench.TargetOptions{RangeSize: n, Verify: o.verify}}
		if len(words) > 1 {
			r.suffix = " by " + strings.TrimSpace(word)
		}
		out = append(out, r)
	}
	return out, nil
}

// defaultRange is the size of ranges: 4 MiB, or what leaves each connection 4 reads per round.
func (o *Options) defaultRange(connections []int, targets int) int64 {
	const most, least, reads = 4 << 20, 64 << 10, 4
	all := 0
	for _, n := range connections {
		all += n
	}
	part := int64(most)
	for part > least && part*int64(reads*all*o.rounds*max(1, targets)) > int64(o.bytes) {
		part /= 2
	}
	return part
}

// rangeSize parses a value of --range; 0 means whole layers.
func rangeSize(word string) (int64, error) {
	if strings.TrimSpace(word) == "whole" {
		return 0, nil
	}
	n, err := units.ParseSize(word)
	if err == nil && n < 1 {
		err = errors.New("must be at least one byte")
	}
	if err != nil {
		return 0, status.Misuse(fmt.Errorf("--range: %w", err))
	}
	return n, nil
}

// parseMix parses a value of --profile: WEIGHT*SIZE or SIZE, separated by commas, or one per line of
// a file.
func parseMix(text string) (bench.Mix, error) {
	words := strings.Split(text, ",")
	if !strings.ContainsAny(text, ",*") {
		f, err := durable.OpenNamed(text)
		if errors.Is(err, durable.ErrForeign) {
			return nil, fmt.Errorf("--profile: %w", err)
		}
		if err == nil {
			defer f.Close()
			words = nil
			err := textfile.EachLine(f, limits.ListBytes, func(line string) error {
				line, _, _ = strings.Cut(line, "#")
				if line = strings.TrimSpace(line); line != "" {
					words = append(words, line)
				}
				if len(words) > limits.ListDigests {
					return fmt.Errorf("it lists more than %d sizes", limits.ListDigests)
				}
				return nil
			})
			if err != nil {
				return nil, status.Misuse(fmt.Errorf("--profile %s: %w", text, err))
			}
		}
	}
	var mix bench.Mix
	for _, word := range words {
		weight, text, ok := strings.Cut(word, "*")
		if !ok {
			weight, text = "1", word
		}
		w, errWeight := strconv.ParseFloat(strings.TrimSpace(weight), 64)
		n, err := units.ParseSize(strings.TrimSpace(text))
		const heaviest = 1e9
		if errWeight != nil || err != nil || n < 1 || !(w > 0 && w <= heaviest) {
			return nil, status.Misuse(fmt.Errorf("--profile %q: must be sizes with weights, e.g. 70*64KiB,30*4MiB, or a file with one per line", word))
		}
		mix = append(mix, bench.Share{Size: n, Weight: w})
	}
	if len(mix) == 0 {
		return nil, status.Misuse(fmt.Errorf("--profile %s has no sizes", text))
	}
	return mix, nil
}
