package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModel checks that each row of docs/threat-model.md that says what stops an
// attack names tests, and that they exist.
func TestThreatModel(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := testFunctions(t)
	name := regexp.MustCompile("`((Test|Fuzz)[A-Z0-9]\\w*)`")
	inTable, rows := false, 0
	for line := range strings.Lines(string(raw)) {
		switch line = strings.TrimSpace(line); {
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case strings.HasSuffix(line, "| tests |"):
			inTable = true
		case inTable && !strings.HasPrefix(line, "| ---"):
			rows++
			if !name.MatchString(line) {
				t.Errorf("no test shows this: %s", line)
			}
		}
	}
	if rows == 0 {
		t.Error("no row has tests")
	}
	for _, m := range name.FindAllStringSubmatch(string(raw), -1) {
		if !tests[m[1]] {
			t.Errorf("there is no test %s", m[1])
			tests[m[1]] = true // it is said once
		}
	}
}

// testFunctions are the names of all tests and fuzz tests of the project.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != ".." {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
