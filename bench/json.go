package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"

	"drayage/engine/jsonstream"
)

// WriteJSON writes the report's JSON form.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// reportBytes is the largest report that is read, in bytes.
const reportBytes = 16 << 20

// ReadReport reads a report's JSON form. The memory it takes is bounded, whatever
// the input.
func ReadReport(in io.Reader) (*Report, error) {
	var r Report
	s := jsonstream.New(io.LimitReader(in, reportBytes), nil)
	memory := 0 // of the entries, in bytes
	count := func(n int, err error) error {
		const most = 12 << 20
		if memory += n; err == nil && memory > most {
			return fmt.Errorf("its lists take more than %d MiB of memory", most>>20)
		}
		return err
	}
	err := s.Document(&r, map[string]func() error{
		"targets":     func() error { return count(entry(s, &r.Targets)) },
		"results":     func() error { return count(entry(s, &r.Results)) },
		"comparisons": func() error { return count(entry(s, &r.Comparisons)) },
		"exchanges":   func() error { return count(entry(s, &r.Exchanges)) },
		"series":      func() error { return count(entry(s, &r.Series)) },
	})
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	if r.Version != reportVersion {
		return nil, fmt.Errorf("reading the report: version %d is not supported, only %d is", r.Version, reportVersion)
	}
	return &r, nil
}

// entry reads an entry of a list, and returns about how many bytes of memory it
// takes.
func entry[T any](s *jsonstream.Reader, to *[]T) (int, error) {
	const perByte = 4 // numbers and kinds of errors take more than their text
	var v T
	n, err := s.Entry(&v)
	*to = append(*to, v)
	return perByte*n + int(reflect.TypeFor[T]().Size()), err
}
