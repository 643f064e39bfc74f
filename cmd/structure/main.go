// Command structure measures how the code is built and fails where a bar is
// missed: the size of packages, uses between files that run in a circle, names
// that are exported and nobody uses or nobody explains, the length of functions,
// and how much of the code is tests. Run it in the module: go run ./cmd/structure.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	verbose := flag.Bool("v", false, "list every package, and the longest functions")
	flag.Parse()
	m, err := load(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "structure:", err)
		os.Exit(2)
	}
	r := m.measure()
	r.print(os.Stdout, *verbose)
	if len(r.missed) > 0 {
		os.Exit(1)
	}
}
