package limits

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocs: docs/limits.md names each limit of this package, and none that it doesn't have.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(token.NewFileSet(), "limits.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	here := make(map[string]bool)
	for name, o := range f.Scope.Objects {
		if o.Kind == ast.Con && ast.IsExported(name) {
			here[name] = true
			if !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("docs/limits.md doesn't have %s", name)
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)`").FindAllStringSubmatch(string(page), -1) {
		if !here[m[1]] {
			t.Errorf("docs/limits.md has %s, which is no limit", m[1])
		}
	}
}
