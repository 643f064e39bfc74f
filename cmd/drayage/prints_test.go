package main

import (
	"go/ast"
	"slices"
	"testing"
)

// raw are the functions that write to people otherwise than by printable.Fprintf or through a
// stream: each makes what it shows of others fit to print by itself, or shows nothing of others.
var raw = []string{
	"cmd/drayage.Write", // stream's own, and those below
	"cmd/drayage.archive",
	"cmd/drayage.document",
	"cmd/drayage.drawn",
	"cmd/drayage.json",
	"cmd/drayage.Fd",
	"cmd/drayage.open",        // an archive
	"cmd/drayage.show",        // a manifest as the registry has it
	"cmd/drayage.toFile",      // a report
	"cmd/drayage.display",     // for the printers
	"cmd/drayage.tellReading", // numbers, and the codes to draw over them
	"cmd/drayage.report",      // oneLine's, with a colour before it
	"cmd/drayage.fail",        // report's lines
	"cmd/drayage.row",         // cells by printable.Text
	"cmd/drayage.plainUsage",  // of our own flags
	"cmd/drayage.writeText",   // a file
	"cmd/drayage.Ready",       // a file
	"cmd/drayage.warmSchemaCommand",
	"cmd/drayage/progress.Log",   // display's lines, with colours
	"cmd/drayage/progress.erase", // codes
}

// TestEverythingForeignIsMadeFitToPrint: what is shown to people goes through printable.Fprintf, by
// which arguments have no control over the terminal and make no lines, columns or endings of their
// own, and then through a stream, which lets no control through whoever forgot.
func TestEverythingForeignIsMadeFitToPrint(t *testing.T) {
	used := map[string]bool{}
	sources(t, func(pkg string, file *ast.File) {
		if pkg != "cmd/drayage" && pkg != "cmd/drayage/progress" {
			return
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			place := pkg + "." + fn.Name.Name
			ast.Inspect(fn, func(n ast.Node) bool {
				if what := bare(n); what != "" {
					used[place] = true
					if !slices.Contains(raw, place) {
						t.Errorf("%s uses %s: printable.Fprintf is for that", place, what)
					}
				}
				return true
			})
		}
	})
	for _, place := range raw {
		if !used[place] {
			t.Errorf("%s is in the list and prints nothing", place)
		}
	}
}

// bare is what prints as it is, or gives away what a stream writes to; "" for anything else.
func bare(n ast.Node) string {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	name := sel.Sel.Name
	if pkg, ok := sel.X.(*ast.Ident); ok {
		prints := []string{"Fprint", "Fprintf", "Fprintln", "Print", "Printf", "Println"}
		if (pkg.Name == "fmt" || pkg.Name == "log") && slices.Contains(prints, name) || pkg.Name == "io" && name == "WriteString" {
			return pkg.Name + "." + name
		}
		if pkg.Name == "s" && name == "file" {
			return "a stream's file"
		}
	}
	stream, ok := sel.X.(*ast.SelectorExpr)
	if ok && (stream.Sel.Name == "out" || stream.Sel.Name == "err") && slices.Contains([]string{"file", "archive", "document", "drawn"}, name) {
		return "what a stream writes to"
	}
	return ""
}
