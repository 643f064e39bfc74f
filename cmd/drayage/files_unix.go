//go:build unix

package main

import (
	"math"
	"syscall"
)

// mostFiles is how many files may be open. Go has raised that as far as it may.
func mostFiles() (n int, ok bool) {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0, false
	}
	return int(min(uint64(limit.Cur), math.MaxInt32)), true
}
