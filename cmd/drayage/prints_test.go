package main

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// raw are the functions that write to people otherwise than by printable.Fprintf or through a
// stream: each makes what it shows of others fit to print by itself, or shows nothing of others.
var raw = []string{
	"cmd/drayage/internal/terminal.Write", // a stream's own, and those below
	"cmd/drayage/internal/terminal.Archive",
	"cmd/drayage/internal/terminal.Document",
	"cmd/drayage/internal/terminal.Drawn",
	"cmd/drayage/internal/terminal.JSON",
	"cmd/drayage/internal/terminal.Fd",
	"cmd/drayage/internal/output.Open",   // an archive
	"cmd/drayage.show",                   // a manifest as the registry has it
	"cmd/drayage/internal/display.Start", // for the printers
	"cmd/drayage.tellReading",            // numbers, and the codes to draw over them
	"cmd/drayage/internal/status.Report", // oneLine's, with a colour before it
	"cmd/drayage/internal/display.Fail",  // report's lines
	"cmd/drayage/internal/benchmark.row", // cells by printable.Text
	"cmd/drayage.plainUsage",             // of our own flags
	"cmd/drayage.writeText",              // a file
	"cmd/drayage/internal/warmer.Ready",  // a file
	"cmd/drayage.warmSchemaCommand",
	"cmd/drayage/internal/process.sayInTime",   // report's line
	"cmd/drayage/internal/output.PrintResults", // of printable.Fprintf
	"cmd/drayage/internal/listen.Pprof",        // our own words
	"cmd/drayage/internal/progress.Log",        // display's lines, with colours
	"cmd/drayage/internal/progress.erase",      // codes
	"cmd/drayage/internal/progress.Hide",       // as erase
	"cmd/drayage/internal/progress.paint",      // lines that are made fit, with codes
	"cmd/drayage/internal/progress.drain",      // what a stream wrote
	"cmd/drayage/internal/progress.Observe",    // printable.JSON
	// What goes to clients. Texts that are ours, or made fit to print by who has them written, since
	// people read them by curl, too; and what mirrors give as it is.
	"cmd/drayage/internal/web.answer",
	"cmd/drayage/internal/conns.NoBodies", // our own words, and a method, which is a token
	"cmd/drayage/internal/web.page",       // a template whose foreign texts go through text
	"cmd/drayage/internal/conns.Write",
	"cmd/drayage/internal/web.write",
}

// silent are the packages below the command that show nothing to people by themselves.
var silent = []string{"cmd/drayage/internal/doctor", "cmd/drayage/internal/history", "cmd/drayage/internal/warm"}

// TestEverythingForeignIsMadeFitToPrint: what is shown to people, serve's clients among them, goes through printable.Fprintf, by
// which arguments have no control over the terminal and make no lines, columns or endings of their
// own, and then through a stream, which lets no control through whoever forgot.
func TestEverythingForeignIsMadeFitToPrint(t *testing.T) {
	used := map[string]bool{}
	sources(t, func(pkg string, file *ast.File) {
		if pkg != "cmd/drayage" && (!strings.HasPrefix(pkg, "cmd/drayage/internal/") || slices.Contains(silent, pkg)) {
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
	if call, ok := n.(*ast.CallExpr); ok {
		return bareWrite(call)
	}
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
	if ok && (stream.Sel.Name == "Out" || stream.Sel.Name == "Err") && slices.Contains([]string{"Archive", "Document", "Drawn"}, name) {
		return "what a stream writes to"
	}
	return ""
}

// bareWrite is a call that writes bytes, a value or a page to something that is no stream of
// a process; "" for anything else.
func bareWrite(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	to, ok := sel.X.(*ast.SelectorExpr)
	isStream := ok && (to.Sel.Name == "Out" || to.Sel.Name == "Err")
	const bytes, page = 1, 2 // arguments
	switch name, n := sel.Sel.Name, len(call.Args); {
	case name == "Write" && n == bytes && !isStream, name == "Encode" && n == bytes, name == "Execute" && n == page, name == "Error" && n > page: // http.Error
		return "a bare " + name
	}
	return ""
}
