package event_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"drayage/engine/event"

	"github.com/google/go-cmp/cmp"
)

// declared are the fields in JSON of every event of the package, by its name in JSON.
func declared(t *testing.T) map[string][]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	fields, kinds := make(map[string][]string), make(map[string]string)
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				s, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				if body, ok := s.Type.(*ast.StructType); ok {
					for _, f := range body.Fields.List {
						tag, err := strconv.Unquote(f.Tag.Value)
						if err != nil {
							t.Fatal(err)
						}
						name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
						fields[s.Name.Name] = append(fields[s.Name.Name], name)
					}
				}
			}
		case *ast.FuncDecl:
			if d.Name.Name == "kind" {
				kind, err := strconv.Unquote(d.Body.List[0].(*ast.ReturnStmt).Results[0].(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				kinds[d.Recv.List[0].Type.(*ast.Ident).Name] = kind
			}
		}
	}
	out := make(map[string][]string)
	for name, f := range fields {
		if kinds[name] == "" || out[kinds[name]] != nil {
			t.Errorf("%s has the kind %q", name, kinds[name])
		}
		out[kinds[name]] = f
	}
	return out
}

// docs/events.md has every event with its fields in order, and no others.
func TestEventsAreDocumented(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "events.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("^\\| `([a-z]+)` \\| ([^|]*) \\|")
	documented := make(map[string][]string)
	for line := range strings.Lines(string(raw)) {
		if m := row.FindStringSubmatch(line); m != nil {
			documented[m[1]] = strings.Fields(strings.ReplaceAll(m[2], "`", ""))
		}
	}
	got := declared(t)
	if len(got) < 20 {
		t.Fatalf("%d events", len(got))
	}
	if diff := cmp.Diff(documented, got); diff != "" {
		t.Error(diff)
	}
}

type recorder struct{ seen *[]string }

func (r recorder) Observe(e event.Event) { *r.seen = append(*r.seen, event.Kind(e)) }

func TestObserversPassOnEveryEventInOrder(t *testing.T) {
	var a, b []string
	o := event.Observers{recorder{&a}, event.Observers{recorder{&b}}, recorder{&a}}
	o.Observe(event.Started{Images: 1})
	o.Observe(event.Lost{Image: "x"})
	if diff := cmp.Diff([]string{"started", "started", "lost", "lost"}, a) + cmp.Diff([]string{"started", "lost"}, b); diff != "" {
		t.Error(diff)
	}
	event.Observers(nil).Observe(event.Started{})
}
