// Package limitstest has what tests need to hold decoders of foreign bytes to a bound on memory.
package limitstest

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

// Most is how much memory any input of at most 4 MiB may take beyond what was in use before it,
// in bytes.
const Most = 64 << 20

// Within fails the test when f takes more than most bytes of memory beyond what was in use.
func Within(t testing.TB, most int64, f func()) {
	t.Helper()
	if peak := Peak(f); peak > most {
		t.Errorf("it took %d MiB of memory, and may take %d", peak>>20, most>>20)
	}
}

// Peak is how much memory f takes at its peak beyond what was in use before, in bytes: objects on
// the heap, those included that the collector has yet to free. Other goroutines' count, too.
func Peak(f func()) int64 {
	runtime.GC()
	debug.FreeOSMemory()
	base := heap()
	// Memory that is free counts for nothing in the end, and is collected here more often than
	// in a program, so that the result says what f needs.
	const percent = 50
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		const often = 200 * time.Microsecond
		tick := time.NewTicker(often)
		defer tick.Stop()
		peak := int64(0)
		for {
			peak = max(peak, heap()-base)
			select {
			case <-tick.C:
			case <-stop:
				done <- max(peak, heap()-base)
				return
			}
		}
	}()
	f()
	close(stop)
	return <-done
}

// heap is how many bytes objects take.
func heap() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// Filled is begin, then unit again and again with commas between, then end: as much as size bytes
// allow.
func Filled(begin, unit, end string, size int) []byte {
	n := max(1, (size-len(begin)-len(end))/(len(unit)+1))
	return []byte(begin + strings.Repeat(unit+",", n-1) + unit + end)
}

// Units are values that many of may cost a decoder far more memory than their bytes.
func Units() map[string]string {
	return map[string]string{
		"objects": `{}`, "arrays": `[]`, "strings": `""`, "numbers": `0`, "nulls": `null`,
		"arrays of objects": `[{}]`, "objects of objects": `{"a":{}}`,
	}
}

// Texts are JSON texts of about size bytes that are hard on decoders, whatever they decode:
// begin and end are what goes around a value.
func Texts(begin, end string, size int) map[string][]byte {
	out := make(map[string][]byte)
	for name, unit := range Units() {
		out[name] = Filled(begin+"[", unit, "]"+end, size)
	}
	inner := size - len(begin) - len(end)
	out["deep arrays"] = []byte(begin + strings.Repeat("[", inner/2) + strings.Repeat("]", inner/2) + end)
	const opening = `{"a":`
	n := inner / (len(opening) + 1)
	out["deep objects"] = []byte(begin + strings.Repeat(opening, n) + "0" + strings.Repeat("}", n) + end)
	out["a long string"] = []byte(begin + `"` + strings.Repeat("x", inner-2) + `"` + end)
	out["escapes"] = []byte(begin + `"` + strings.Repeat(`\u00e9`, inner/6) + `"` + end)
	out["a huge number"] = []byte(begin + strings.Repeat("9", inner) + end)
	out["the same key"] = Filled(begin+"{", `"a":0`, "}"+end, size)
	out["keys in case"] = Filled(begin+"{", `"layers":[],"Layers":[{}]`, "}"+end, size)
	return out
}
