package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/types"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// The bars.
const (
	maxPackage  = 2500 // lines of a package, its tests not counted; one may have more
	maxExported = 330  // names that another module can use: functions, types, constants, variables, methods; those of packages for tests not counted
	maxMedian   = 11   // lines of a function
	maxP90      = 35
	maxLongest  = 90
	minTests    = 0.6 // lines of tests for each line of code
	filesInOne  = 10  // packages of more files have them in an order
)

// idioms are the names of types that Go's packages share: read with the
// package's name they say what they are.
var idioms = strings.Fields("Options Config Client Handler Store Error Source Result Flags Writer")

type function struct {
	name  string
	lines int
}

// A report is what was measured, and which bars were missed.
type report struct {
	pkgs      []*pkg
	functions []function
	lines     int
	tests     int
	public    int
	inner     int
	loops     []string
	twice     []string
	unused    []string
	mute      []string
	missed    []string
}

func (m *module) measure() *report {
	r := &report{pkgs: m.pkgs}
	used := m.uses()
	seen := make(map[string]string)
	for _, p := range m.pkgs {
		r.lines, r.tests = r.lines+p.lines, r.tests+p.tests
		r.functions = append(r.functions, m.functions(p)...)
		if len(p.files) > filesInOne {
			r.loops = append(r.loops, m.loops(p)...)
		}
		if p.types.Name() == "main" {
			continue
		}
		for _, e := range m.exported(p) {
			if isInternal(p.path) || isHelp(p.path) {
				r.inner++
			} else {
				r.public++
			}
			if e.doc == "" && e.obj.Name() != "Error" { // whose meaning is known
				r.mute = append(r.mute, e.name)
			}
			if e.top && !used[e.obj] && !m.tested[e.name] && !isHelp(p.path) {
				r.unused = append(r.unused, e.name)
			}
			if _, ok := e.obj.(*types.TypeName); ok && !slices.Contains(idioms, e.obj.Name()) {
				if other, ok := seen[e.obj.Name()]; ok {
					r.twice = append(r.twice, e.name+" and "+other)
				}
				seen[e.obj.Name()] = e.name
			}
		}
	}
	slices.SortFunc(r.functions, func(a, b function) int { return cmp.Compare(a.lines, b.lines) })
	slices.SortFunc(r.pkgs, func(a, b *pkg) int { return cmp.Compare(b.lines, a.lines) })
	r.judge()
	return r
}

func isInternal(path string) bool { return slices.Contains(strings.Split(path, "/"), "internal") }

// isHelp reports whether a package is there for tests, such as registrytest.
func isHelp(path string) bool { return strings.HasSuffix(path, "test") }

type export struct {
	name string
	obj  types.Object
	doc  string
	top  bool
}

// exported are a package's exported names: at the top level, and methods of
// exported types.
func (m *module) exported(p *pkg) []export {
	var all []export
	add := func(id *ast.Ident, at string, top bool, docs ...*ast.CommentGroup) {
		if !id.IsExported() {
			return
		}
		e := export{name: p.path + "." + at + id.Name, obj: p.info.Defs[id], top: top}
		for _, d := range docs {
			e.doc += d.Text()
		}
		all = append(all, e)
	}
	for _, file := range p.files {
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add(d.Name, "", true, d.Doc)
				} else if base := receiver(d); ast.IsExported(base) {
					add(d.Name, base+".", false, d.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						add(s.Name, "", true, d.Doc, s.Doc, s.Comment)
					case *ast.ValueSpec:
						for _, id := range s.Names {
							add(id, "", true, d.Doc, s.Doc, s.Comment)
						}
					}
				}
			}
		}
	}
	return all
}

func receiver(d *ast.FuncDecl) string {
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// uses are the objects that another package of the module uses, by name or as
// the type of something it uses.
func (m *module) uses() map[types.Object]bool {
	byName := make(map[string]types.Object)
	for _, p := range m.pkgs {
		for _, n := range p.types.Scope().Names() {
			byName[p.types.Path()+"."+n] = p.types.Scope().Lookup(n)
		}
	}
	used := make(map[types.Object]bool)
	var mark func(t types.Type)
	object := func(o types.Object) {
		if o == nil || o.Pkg() == nil {
			return
		}
		own, ok := byName[o.Pkg().Path()+"."+o.Name()]
		if !ok || used[own] {
			return
		}
		used[own] = true
		mark(own.Type())
	}
	seen := make(map[types.Type]bool)
	mark = func(t types.Type) {
		if t == nil || seen[t] {
			return
		}
		seen[t] = true
		switch t := t.(type) {
		case *types.Named:
			object(t.Obj())
			for i := range t.NumMethods() {
				if t.Method(i).Exported() {
					mark(t.Method(i).Type())
				}
			}
			mark(t.Underlying())
		case *types.Alias:
			object(t.Obj())
		case *types.Pointer:
			mark(t.Elem())
		case *types.Slice:
			mark(t.Elem())
		case *types.Array:
			mark(t.Elem())
		case *types.Chan:
			mark(t.Elem())
		case *types.Map:
			mark(t.Key())
			mark(t.Elem())
		case *types.Signature:
			mark(t.Params())
			mark(t.Results())
		case *types.Tuple:
			for i := range t.Len() {
				mark(t.At(i).Type())
			}
		case *types.Struct:
			for i := range t.NumFields() {
				if t.Field(i).Exported() {
					mark(t.Field(i).Type())
				}
			}
		case *types.Interface:
			for i := range t.NumMethods() {
				mark(t.Method(i).Type())
			}
		}
	}
	for _, p := range m.pkgs {
		for _, o := range p.info.Uses {
			if o.Pkg() != nil && o.Pkg().Path() != p.types.Path() && strings.HasPrefix(o.Pkg().Path()+"/", m.name+"/") {
				object(o)
				mark(o.Type())
			}
		}
	}
	return used
}

func (m *module) functions(p *pkg) []function {
	var all []function
	for _, file := range p.files {
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Body != nil {
				n := m.fset.Position(d.End()).Line - m.fset.Position(d.Pos()).Line + 1
				all = append(all, function{p.path + "." + d.Name.Name, n})
			}
		}
	}
	return all
}

// loops are the files of a package that use each other in a circle, one line a
// circle, with what is used.
func (m *module) loops(p *pkg) []string {
	graph := make(map[string]map[string][]string)
	for _, file := range p.files {
		from := filepath.Base(m.fset.Position(file.Pos()).Filename)
		graph[from] = make(map[string][]string)
		ast.Inspect(file, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			o := p.info.Uses[id]
			if o == nil || o.Pkg() != p.types {
				return true
			}
			if v, ok := o.(*types.Var); ok && (v.IsField() || o.Parent() != p.types.Scope()) {
				return true
			}
			to := filepath.Base(m.fset.Position(o.Pos()).Filename)
			if to != from && !slices.Contains(graph[from][to], o.Name()) {
				graph[from][to] = append(graph[from][to], o.Name())
			}
			return true
		})
	}
	var out []string
	for _, circle := range circles(graph) {
		line := fmt.Sprintf("%s: %s", p.path, strings.Join(circle, " "))
		for _, from := range circle {
			for _, to := range circle {
				if names := graph[from][to]; len(names) > 0 {
					line += fmt.Sprintf("\n      %s -> %s: %s", from, to, strings.Join(names, " "))
				}
			}
		}
		out = append(out, line)
	}
	return out
}

// circles are the strongly connected components of more than one file
// (Tarjan's algorithm).
func circles(graph map[string]map[string][]string) [][]string {
	var (
		out   [][]string
		stack []string
		index = make(map[string]int)
		low   = make(map[string]int)
		on    = make(map[string]bool)
	)
	var visit func(v string)
	visit = func(v string) {
		index[v], low[v] = len(index)+1, len(index)+1
		stack, on[v] = append(stack, v), true
		for w := range graph[v] {
			if index[w] == 0 {
				visit(w)
				low[v] = min(low[v], low[w])
			} else if on[w] {
				low[v] = min(low[v], index[w])
			}
		}
		if low[v] != index[v] {
			return
		}
		at := slices.Index(stack, v)
		one := slices.Clone(stack[at:])
		for _, w := range one {
			on[w] = false
		}
		if stack = stack[:at]; len(one) > 1 {
			slices.Sort(one)
			out = append(out, one)
		}
	}
	names := make([]string, 0, len(graph))
	for v := range graph {
		names = append(names, v)
	}
	slices.Sort(names)
	for _, v := range names {
		if index[v] == 0 {
			visit(v)
		}
	}
	return out
}

func (r *report) judge() {
	large := 0
	for _, p := range r.pkgs {
		if p.lines > maxPackage {
			large++
		}
	}
	r.bar(large > 1, "%d packages have more than %d lines; one may", large, maxPackage)
	r.bar(len(r.loops) > 0, "%d circles of files that use each other", len(r.loops))
	r.bar(r.public > maxExported, "%d names are exported to other modules; %d may be", r.public, maxExported)
	r.bar(len(r.unused) > 0, "%d exported names have no user", len(r.unused))
	r.bar(len(r.mute) > 0, "%d exported names have no comment", len(r.mute))
	r.bar(len(r.twice) > 0, "%d pairs of exported types share a name", len(r.twice))
	r.bar(r.at(50) > maxMedian, "half of all functions have more than %d lines", maxMedian)
	r.bar(r.at(90) > maxP90, "one function of ten has more than %d lines", maxP90)
	r.bar(r.at(100) > maxLongest, "a function has more than %d lines", maxLongest)
	r.bar(r.ratio() < minTests, "%.2f lines of tests for a line of code; %.1f are wanted", r.ratio(), minTests)
}

func (r *report) bar(missed bool, format string, args ...any) {
	if missed {
		r.missed = append(r.missed, fmt.Sprintf(format, args...))
	}
}

func (r *report) at(percent int) int {
	return r.functions[(len(r.functions)-1)*percent/100].lines
}

func (r *report) ratio() float64 { return float64(r.tests) / float64(r.lines) }

func (r *report) print(w io.Writer, verbose bool) {
	list := func(title string, all []string) {
		if len(all) == 0 {
			return
		}
		fmt.Fprintf(w, "%s:\n", title)
		for _, s := range all {
			fmt.Fprintf(w, "  %s\n", s)
		}
	}
	if verbose {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "PACKAGE\tFILES\tLINES\tTESTS")
		for _, p := range r.pkgs {
			fmt.Fprintf(tw, "%s\t%d\t%d\t%d\n", p.path, len(p.files), p.lines, p.tests)
		}
		_ = tw.Flush()
		fmt.Fprintln(w, "longest functions:")
		for _, f := range r.functions[max(0, len(r.functions)-15):] {
			fmt.Fprintf(w, "  %4d  %s\n", f.lines, f.name)
		}
	}
	list("circles", r.loops)
	list("no user", r.unused)
	list("no comment", r.mute)
	list("types of one name", r.twice)
	fmt.Fprintf(w, "%d packages, %d lines, %d of tests (%.2f); exported: %d to other modules, %d internal or for tests; functions: median %d, p90 %d, longest %d\n",
		len(r.pkgs), r.lines, r.tests, r.ratio(), r.public, r.inner, r.at(50), r.at(90), r.at(100))
	list("missed", r.missed)
}
