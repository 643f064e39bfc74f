package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers is the direction of imports: a package imports only from lower lines,
// and one that is not here has no place yet. docs/architecture.md explains it.
var layers = []string{
	0:  "bench/internal/course bench/internal/drawing bench/internal/load bench/internal/siege bench/internal/stats blobstore/durable blobstore/internal/garbage cmd/drayage/internal/build cmd/drayage/internal/client cmd/drayage/internal/limits cmd/drayage/internal/phrase cmd/structure engine/chaos/internal/wire engine/cpulimit engine/event engine/fault engine/internal/limits engine/internal/retry engine/internal/schedule engine/internal/transfer/internal/buffer engine/internal/transfer/internal/interval engine/internal/transfer/internal/meter engine/internal/transfer/internal/policy engine/internal/transfer/internal/rotation engine/limitstest engine/printable engine/printable/printabletest engine/reference engine/registry/internal/failure engine/registry/internal/origin engine/registry/internal/wire engine/textfile tarwriter/compress",
	1:  "blobstore/blobstoretest blobstore/internal/disk blobstore/internal/journal blobstore/internal/space blobstore/internal/stamps cmd/drayage/internal/progress cmd/drayage/internal/terminal engine/chaos engine/chaos/chaostest engine/credential engine/image engine/internal/transfer/internal/prefix engine/internal/transfer/internal/record engine/internal/volumes engine/jsonstream engine/registry/hosts engine/registry/internal/notice engine/registry/internal/proxies engine/registry/internal/redact engine/registry/internal/redirect engine/registry/internal/response tarwriter",
	2:  "blobstore/internal/files blobstore/internal/layout cmd/drayage/internal/history cmd/drayage/internal/status engine/internal/transfer engine/plan engine/registry/internal/bearer engine/registry/internal/latency engine/registry/internal/listing engine/registry/internal/probing engine/registry/internal/reach engine/registry/registrytest",
	3:  "bench/race blobstore cmd/demo cmd/drayage/internal/platform cmd/drayage/internal/process cmd/drayage/internal/units engine/registry/internal/lease engine/registry/internal/retrying engine/registry/internal/tracing",
	4:  "bench/bars blobstore/quota cmd/drayage/internal/display cmd/drayage/internal/password cmd/drayage/internal/stores cmd/drayage/internal/warm engine/compose engine/mirror engine/registry",
	5:  "bench cmd/drayage/internal/doctor cmd/drayage/internal/refusal engine/archive engine/internal/pullthrough",
	6:  "cmd/drayage/internal/conns cmd/drayage/internal/upstream engine",
	7:  "cmd/drayage/internal/images cmd/drayage/internal/output cmd/drayage/internal/web",
	8:  "cmd/drayage/internal/network",
	9:  "cmd/drayage/internal/listen cmd/drayage/internal/warmer",
	10: "cmd/drayage/internal/benchmark",
	11: "cmd/drayage",
}

// leaves import nothing of the project, and are imported from wherever they are
// needed.
var leaves = []string{"engine/fault"}

// goroutines are the functions that start some, each of which waits for its
// own before it returns or is closed.
var goroutines = []string{
	"blobstore.Verify", // by its errgroup
	"bench/internal/load.Run",
	"bench/internal/load.open",
	"bench/bars.bareLoop",
	"bench/bars.crowded",
	"bench/bars.eightGets",
	"bench/bars.killed",
	"bench/race.loop",
	"bench/internal/siege.Lay",
	"bench/internal/siege.Run",
	"bench/internal/siege.streams",
	"bench/bars.besiege",
	"bench/bars.startServe", // ends with the process
	"bench/race.measure",
	"bench/race.serveSet",
	"cmd/drayage/internal/process.Interruptible",
	"cmd/drayage.keep",
	"cmd/drayage.run",
	"cmd/drayage/internal/process.sayInTime", // the process ends then
	"cmd/drayage/internal/listen.Pprof",
	"cmd/drayage/internal/benchmark.startMetrics",
	"cmd/drayage.tellReading",
	"cmd/drayage.watch",
	"cmd/drayage/internal/progress.NewBars",
	"cmd/drayage/internal/progress.Write", // a Patient's, which Flush waits for
	"cmd/drayage/internal/process.Poll",   // but for a reading that a file system holds up, which nothing can call off
	"engine/internal/pullthrough.do",
	"engine/internal/pullthrough.follow",
	"engine/internal/pullthrough.isDown",
	"engine/registry.New",
	"engine/archive.checkLayers",
	"engine/limitstest.Peak",
	"engine/chaos.Serve",
	"engine/chaos.Start",
	"engine/compose.convertAll",
	"engine/compose.pump",
	"engine/internal/schedule.newQueue", // by its errgroup
	"engine/internal/transfer.Run",
	"cmd/drayage/internal/warm.Run",
	"cmd/drayage/internal/warm.pace",
	"tarwriter.writeAnyOrder",
	"tarwriter.sums",
	"tarwriter/compress.NewWriter",
}

func layerOf(pkg string) int {
	for i, line := range layers {
		if slices.Contains(strings.Fields(line), pkg) {
			return i
		}
	}
	return -1
}

// sources calls f with each of the project's Go files that is no test.
func sources(t *testing.T, f func(pkg string, file *ast.File)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		pkg, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f(filepath.ToSlash(pkg), file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// go test -fuzz wants a name that a package has once, its external tests included.
func TestFuzzTestsHaveNamesOfTheirOwn(t *testing.T) {
	seen := make(map[string]string)
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") {
				continue
			}
			at := filepath.Dir(path) + "." + fn.Name.Name
			if other := seen[at]; other != "" {
				t.Errorf("%s is in %s and in %s", fn.Name.Name, other, path)
			}
			seen[at] = path
		}
		return nil
	})
	if err != nil || len(seen) < 20 {
		t.Errorf("%d fuzz tests, %v", len(seen), err)
	}
}

func TestImportsGoDownwardsOnly(t *testing.T) {
	seen := 0
	sources(t, func(pkg string, file *ast.File) {
		seen++
		from := layerOf(pkg)
		if from < 0 {
			t.Errorf("%s is in no layer", pkg)
		}
		for _, imp := range file.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			below, ours := strings.CutPrefix(path, "drayage/")
			if !ours {
				continue
			}
			if to := layerOf(below); to >= from && !slices.Contains(leaves, below) {
				t.Errorf("%s (layer %d) imports %s (layer %d)", pkg, from, below, to)
			}
			if strings.HasPrefix(pkg, "blobstore") || strings.HasPrefix(pkg, "tarwriter") {
				if strings.HasPrefix(below, "engine") && below != "engine/fault" {
					t.Errorf("%s knows the engine: it imports %s", pkg, below)
				}
			}
		}
	})
	if seen < 30 {
		t.Errorf("only %d files were read", seen)
	}
}

func TestGoroutinesStartInAShortListOfPlaces(t *testing.T) {
	found := map[string]bool{}
	sources(t, func(pkg string, file *ast.File) {
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				starts := false
				switch n := n.(type) {
				case *ast.GoStmt:
					starts = true
				case *ast.CallExpr:
					sel, ok := n.Fun.(*ast.SelectorExpr)
					starts = ok && sel.Sel.Name == "Go"
				}
				if starts {
					found[pkg+"."+fn.Name.Name] = true
				}
				return true
			})
		}
	})
	for place := range found {
		if !slices.Contains(goroutines, place) {
			t.Errorf("%s starts a goroutine and is not in the list", place)
		}
	}
	for _, place := range goroutines {
		if !found[place] {
			t.Errorf("%s is in the list and starts none", place)
		}
	}
}

// The module's top level has a few folders, each with its part of an image's
// way.
func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	allowed := strings.Fields("bench bin blobstore cmd docs engine tarwriter")
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && !slices.Contains(allowed, e.Name()) {
			t.Errorf("unexpected folder %s", e.Name())
		}
	}
}
