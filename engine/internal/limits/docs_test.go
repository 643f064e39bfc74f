package limits

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	root = "../../../"
	// commands is where the limits of the commands are.
	commands = root + "cmd/drayage/internal/limits"
	// expansion is where the limits of expansion are.
	expansion = root + "tarwriter/compress"
)

// TestDocs: docs/limits.md names each limit of this package and of the commands' with its value, and
// none that they don't have. Those of other packages have these before their names.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile(root + "docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	here, others, told := declared(t, "."), make(map[string]map[string]int64), make(map[string]bool)
	maps.Copy(here, declared(t, commands))
	expanding := declared(t, expansion)
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z/.]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(string(page), -1) {
		name, value := m[1], m[2]
		told[name] = true
		if at := strings.LastIndex(name, "."); at >= 0 && others[name[:at]] == nil {
			others[name[:at]] = declared(t, root+name[:at])
		}
		want, ok := here[name]
		if !ok {
			want, ok = expanding[name]
		}
		if at := strings.LastIndex(name, "."); at >= 0 {
			want, ok = others[name[:at]][name[at+1:]]
		}
		if !ok {
			t.Errorf("docs/limits.md has %s, which is no limit", name)
			continue
		}
		if got, ok := parsed(value); !ok || got != want {
			t.Errorf("docs/limits.md has %q for %s, which is %d", value, name, want)
		}
	}
	for name := range here {
		if !told[name] {
			t.Errorf("docs/limits.md doesn't have %s", name)
		}
	}
}

// declared are the constants of a package that are whole numbers, by their names; times in
// nanoseconds. Of packages named limits they are the exported ones.
func declared(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no files: %v", dir, err)
	}
	out := make(map[string]int64)
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			decl, ok := n.(*ast.GenDecl)
			if !ok || decl.Tok != token.CONST {
				return true
			}
			for _, spec := range decl.Specs {
				spec, _ := spec.(*ast.ValueSpec)
				for i, name := range spec.Names {
					if isLimits(dir) && !name.IsExported() || i >= len(spec.Values) {
						continue
					}
					if v, exact := constant.Int64Val(valueOf(spec.Values[i])); exact {
						out[name.Name] = v
					} else if isLimits(dir) {
						t.Errorf("%s is no whole number", name)
					}
				}
			}
			return true
		})
	}
	return out
}

// isLimits reports whether all exported constants of a package are limits.
func isLimits(dir string) bool { return dir == "." || dir == commands }

// valueOf works out a constant of numbers and times; of anything else it is unknown.
func valueOf(e ast.Expr) constant.Value {
	unit := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.INT {
			return constant.MakeFromLiteral(e.Value, e.Kind, 0)
		}
	case *ast.SelectorExpr:
		if u, ok := unit[e.Sel.Name]; ok {
			return constant.MakeInt64(int64(u))
		}
	case *ast.BinaryExpr:
		x, y := valueOf(e.X), valueOf(e.Y)
		n, whole := constant.Uint64Val(y)
		switch {
		case x.Kind() != constant.Int || !whole:
		case e.Op == token.SHL:
			return constant.Shift(x, e.Op, uint(n))
		case e.Op == token.MUL || e.Op == token.ADD || e.Op == token.SUB:
			return constant.BinaryOp(x, e.Op, y)
		}
	}
	return constant.MakeUnknown()
}

// parsed reads a value as the table has it.
func parsed(text string) (int64, bool) {
	number, unit, _ := strings.Cut(strings.TrimSpace(text), " ")
	n, err := strconv.ParseInt(strings.ReplaceAll(number, ",", ""), 10, 64)
	scale, known := map[string]int64{
		"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "KiB/s": 1 << 10, "s": int64(time.Second), "min": int64(time.Minute),
	}[unit]
	return n * scale, err == nil && known
}
