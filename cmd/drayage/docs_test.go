package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/terminal"
)

// anchorsOf are the fragments under which a page's headings can be linked to.
func anchorsOf(text string) map[string]bool {
	out := map[string]bool{}
	for _, line := range (page{text: text}).lines() {
		if strings.HasPrefix(line, "#") {
			title := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
			out[strings.ReplaceAll(regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(title, ""), " ", "-")] = true
		}
	}
	return out
}

// TestDocsLinks checks that links between pages, and to files, lead somewhere.
func TestDocsLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]*)\)`)
	for _, p := range readPages(t, pages, true) {
		for _, m := range link.FindAllStringSubmatch(strings.Join(p.lines(), "\n"), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			text := p.text
			if target != "" {
				name := filepath.Join("..", "..", filepath.FromSlash(path.Join(path.Dir(p.name), target)))
				info, err := os.Stat(name)
				if err != nil {
					t.Errorf("%s links to %s: %v", p.name, m[1], err)
					continue
				}
				if info.IsDir() {
					continue
				}
				raw, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				text = string(raw)
			}
			if anchor != "" && !anchorsOf(text)[anchor] {
				t.Errorf("%s links to %s, which has no such heading", p.name, m[1])
			}
		}
	}
}

// TestDocsCommands checks that commands and flags in the pages exist.
func TestDocsCommands(t *testing.T) {
	checked := 0
	for _, p := range readPages(t, pages, true) {
		if p.name == "docs/benchmarks.md" {
			continue // the commands of the version that was measured
		}
		for _, line := range commandLines(p.text) {
			checked++
			if err := checkCommand(t, line); err != nil {
				t.Errorf("%s: %s: %v", p.name, line, err)
			}
		}
	}
	if checked < 30 {
		t.Errorf("%d commands found", checked)
	}
	for _, wrong := range []string{"drayage pul x", "drayage pull --nothing x", "drayage store gc -Z", "drayage pull -p=json --outputs x"} {
		if checkCommand(t, wrong) == nil {
			t.Errorf("%q is taken as right", wrong)
		}
	}
}

// commandLines are the calls of drayage in code blocks that show a prompt, and in backticks.
func commandLines(text string) (out []string) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "$ "); ok {
			rest, _, _ = strings.Cut(rest, "  #")
			for _, part := range regexp.MustCompile(`\||&&|&`).Split(rest, -1) {
				if part = strings.TrimSpace(part); strings.HasPrefix(part, "drayage ") {
					out = append(out, part)
				}
			}
			continue
		}
		for _, m := range regexp.MustCompile("`(drayage [a-z][^`|]*)`").FindAllStringSubmatch(line, -1) {
			out = append(out, m[1])
		}
	}
	return out
}

// checkCommand checks the command's name and its flags, but not their values, against its help.
func checkCommand(t *testing.T, line string) error {
	t.Helper()
	words := strings.Fields(line)[1:]
	if words[0] == "help" || words[0] == "COMMAND" {
		return nil
	}
	help, n := helpOf(t), 0
	for n < len(words) && listsCommand(help, words[n]) {
		n++
		help = helpOf(t, words[:n]...)
	}
	if n == 0 {
		return fmt.Errorf("no such command")
	}
	for _, word := range words[n:] {
		name, _, _ := strings.Cut(strings.Trim(word, ",[]"), "=")
		pattern := `(?m)^ +(-\w, +)?` + regexp.QuoteMeta(name) + `\b` // -o, --output
		switch {
		case !strings.HasPrefix(name, "-") || name == "-":
			continue
		case !strings.HasPrefix(name, "--"):
			pattern = `(?m)^ +` + regexp.QuoteMeta(name[:2]) + `, `
		}
		if !regexp.MustCompile(pattern).MatchString(help) {
			return fmt.Errorf("there is no flag %s", name)
		}
	}
	return nil
}

// helpOf is what a command prints with --help.
func helpOf(t *testing.T, command ...string) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "help"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	err = run(t.Context(), append(command[:len(command):len(command)], "--help"), process.Streams{Out: terminal.New(out), Err: terminal.New(out)})
	text, errRead := os.ReadFile(out.Name())
	if err = errors.Join(err, errRead); err != nil {
		t.Fatalf("%s --help: %v", command, err)
	}
	return string(text)
}

// listsCommand reports whether a help text has a command of that name.
func listsCommand(help, name string) bool {
	_, list, ok := strings.Cut(help, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	return ok && regexp.MustCompile(`(?m)^  `+regexp.QuoteMeta(name)+` `).MatchString(list)
}

// TestRegistryBehaviour checks that docs/registry-behaviour.md has a row with a test for each
// number that code cites (G1, G2 …), and that all tests it names exist.
func TestRegistryBehaviour(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "registry-behaviour.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests, packages := testsByPackage(t)
	number := regexp.MustCompile(`\bG([0-9]+)\b`)
	rows := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| id") {
			continue
		}
		if err := checkTests(cells[len(cells)-1], tests, packages); err != nil {
			t.Errorf("%s: %v", strings.TrimSpace(line), err)
		}
		found := number.FindAllStringSubmatch(cells[0], -1)
		for _, m := range found {
			rows[m[1]] = true
		}
		if strings.Contains(cells[0], "–") && len(found) == 2 { // from the one to the other
			from, _ := strconv.Atoi(found[0][1])
			to, _ := strconv.Atoi(found[1][1])
			for n := from; n <= to; n++ {
				rows[strconv.Itoa(n)] = true
			}
		}
	}
	cited := citedNumbers(t, number)
	if len(cited) < 30 {
		t.Errorf("code cites %d numbers", len(cited))
	}
	for n, where := range cited {
		if !rows[n] {
			t.Errorf("%s cites G%s, which has no row", where, n)
		}
	}
}

// checkTests checks a cell that names tests: `TestA/Sub`, `…/Sub` of the test before, and
// `package` `TestB` of a package below the top directory.
func checkTests(cell string, tests map[string]map[string]bool, packages map[string]string) error {
	in, test, named := "cmd/drayage", "", 0
	for _, span := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(cell, -1) {
		name, sub, _ := strings.Cut(span[1], "/")
		switch {
		case name == "r" && sub == "":
			in = "engine/registry"
			continue
		case name == "Answers" || strings.HasPrefix(name, "Answers"):
			in, test = "engine", "TestWhatAnswersMean"
		case name == "…":
		case strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz"):
			test = name
		case packages[span[1]] != "":
			in = span[1]
			continue
		default:
			return fmt.Errorf("%q is neither a test nor a package", span[1])
		}
		named++
		if !tests[in][test] {
			return fmt.Errorf("%s has no test %s", in, test)
		}
		sub = strings.TrimSuffix(sub, "…")
		if sub != "" && !hasSubtest(packages[in], sub) {
			return fmt.Errorf("%s has no subtest %s", test, sub)
		}
	}
	if named == 0 {
		return fmt.Errorf("it names no test")
	}
	return nil
}

// hasSubtest looks for a string in a package's tests that begins as the name of a subtest does, in
// which Go writes spaces as underscores.
func hasSubtest(source, sub string) bool {
	return strings.Contains(strings.ReplaceAll(source, " ", "_"), `"`+sub)
}

// testsByPackage are the tests of each package by their names, and the sources of its tests.
func testsByPackage(t *testing.T) (tests map[string]map[string]bool, packages map[string]string) {
	t.Helper()
	tests, packages = map[string]map[string]bool{}, map[string]string{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`)
	walkGo(t, func(name, text string) {
		if !strings.HasSuffix(name, "_test.go") {
			return
		}
		for _, in := range withOwner(path.Dir(name)) {
			packages[in] += text
			if tests[in] == nil {
				tests[in] = map[string]bool{}
			}
			for _, m := range function.FindAllStringSubmatch(text, -1) {
				tests[in][m[1]] = true
			}
		}
	})
	return tests, packages
}

// withOwner is a package, and the one that it is internal to: its tests are that one's, too.
func withOwner(pkg string) []string {
	if owner, _, internal := strings.Cut(pkg, "/internal/"); internal {
		return []string{pkg, owner}
	}
	return []string{pkg}
}

// citedNumbers are the numbers that code cites, each with one file that does; "G1 to G3" cites three.
func citedNumbers(t *testing.T, number *regexp.Regexp) map[string]string {
	t.Helper()
	cited := map[string]string{}
	walkGo(t, func(name, text string) {
		if name == "cmd/drayage/docs_test.go" {
			return
		}
		for _, m := range number.FindAllStringSubmatch(text, -1) {
			cited[m[1]] = name
		}
	})
	return cited
}

// walkGo calls f with the Go files of the project, by their paths below the top directory.
func walkGo(t *testing.T, f func(name, text string)) {
	t.Helper()
	top := filepath.Join("..", "..")
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && name != top {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(rel), string(raw))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
