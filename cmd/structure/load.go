package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// A pkg is one of the module's packages with its types, tests not included.
type pkg struct {
	path  string // below the module, such as engine/registry
	files []*ast.File
	types *types.Package
	info  *types.Info
	lines int // of its files that are no tests
	tests int // of its tests
}

// A module is all packages of the module in a directory.
type module struct {
	name   string
	fset   *token.FileSet
	pkgs   []*pkg
	tested map[string]bool // names that tests of other packages use, such as engine/event.Warned
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir, Export            string
	GoFiles, TestGoFiles, XTestGoFiles []string
	IgnoredGoFiles                     []string
	Module                             *struct {
		Path string
		Main bool
	}
}

func load(dir string) (*module, error) {
	list, err := golist(dir)
	if err != nil {
		return nil, err
	}
	m := &module{fset: token.NewFileSet(), tested: make(map[string]bool)}
	exports := make(map[string]string)
	for _, l := range list {
		exports[l.ImportPath] = l.Export
	}
	imports := importer.ForCompiler(m.fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})
	for _, l := range list {
		if l.Module == nil || !l.Module.Main {
			continue
		}
		m.name = l.Module.Path
		p, err := m.check(l, imports)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.ImportPath, err)
		}
		m.pkgs = append(m.pkgs, p)
	}
	return m, nil
}

func golist(dir string) ([]listed, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,TestGoFiles,XTestGoFiles,IgnoredGoFiles,Module", "./...") //nolint:noctx // a tool that ends with its user
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	var list []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading what go list says: %w", err)
		}
		list = append(list, l)
	}
}

func (m *module) check(l listed, imports types.Importer) (*pkg, error) {
	p := &pkg{
		path: strings.TrimPrefix(strings.TrimPrefix(l.ImportPath, l.Module.Path), "/"),
		info: &types.Info{Uses: make(map[*ast.Ident]types.Object), Defs: make(map[*ast.Ident]types.Object), Selections: make(map[*ast.SelectorExpr]*types.Selection)},
	}
	for _, name := range l.GoFiles {
		file, err := parser.ParseFile(m.fset, filepath.Join(l.Dir, name), nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, file)
		p.lines += m.fset.File(file.Pos()).LineCount()
	}
	for _, name := range l.IgnoredGoFiles { // for other systems, or tests with a tag
		n, err := lineCount(filepath.Join(l.Dir, name))
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(name, "_test.go") {
			p.tests += n
		} else {
			p.lines += n
		}
	}
	if err := m.checkTests(p, l); err != nil {
		return nil, err
	}
	var err error
	p.types, err = (&types.Config{Importer: imports}).Check(l.ImportPath, m.fset, p.files, p.info)
	return p, err
}

// checkTests counts the lines of a package's tests, and notes what of other
// packages they use.
func (m *module) checkTests(p *pkg, l listed) error {
	for _, name := range append(l.TestGoFiles, l.XTestGoFiles...) {
		file, err := parser.ParseFile(m.fset, filepath.Join(l.Dir, name), nil, 0)
		if err != nil {
			return err
		}
		p.tests += m.fset.File(file.Pos()).LineCount()
		imports := make(map[string]string)
		for _, imp := range file.Imports {
			at := strings.Trim(imp.Path.Value, `"`)
			below, ours := strings.CutPrefix(at, l.Module.Path+"/")
			if !ours || at == l.ImportPath {
				continue
			}
			word := path.Base(at)
			if imp.Name != nil {
				word = imp.Name.Name
			}
			imports[word] = below
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if id, ok := sel.X.(*ast.Ident); ok && imports[id.Name] != "" {
					m.tested[imports[id.Name]+"."+sel.Sel.Name] = true
				}
			}
			return true
		})
	}
	return nil
}

func lineCount(path string) (int, error) {
	b, err := os.ReadFile(path)
	return bytes.Count(b, []byte("\n")), err
}
