package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var writeNotices = flag.Bool("notices", false, "write notices.txt anew")

// linked is a module that is linked into the program on some platform.
type linked struct {
	Path, Version, Dir string
	folders            map[string]bool // of its packages that are linked
}

// licence is a text under which modules are, without the lines of copyright that some have
// before it.
type licence struct {
	text string
	of   []string // modules, with the lines of copyright that are their own
}

// TestNotices compares notices.txt with the modules that are linked into the program and
// their licences, and the table of docs/dependencies.md with both.
func TestNotices(t *testing.T) {
	modules := linkedModules(t)
	text, licences := noticesText(t, modules)
	if *writeNotices {
		if err := os.WriteFile("notices.txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if text != notices {
		t.Error("notices.txt isn't what the modules' licences give; make notices writes it anew")
	}
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]+) \\| ([^|]+) \\|").FindAllStringSubmatch(string(raw), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			table[name[1]] = row[2]
		}
	}
	for _, m := range modules {
		if got, want := table[m.Path], strings.Join(licences[m.Path], ", "); got != want {
			t.Errorf("docs/dependencies.md has the licence %q of %s, which is %q", got, m.Path, want)
		}
	}
}

// linkedModules asks go which modules' packages the program has.
func linkedModules(t *testing.T) []*linked {
	t.Helper()
	modules := map[string]*linked{}
	for _, platform := range []string{"linux", "darwin", "freebsd", "windows"} { // processors make no difference
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=Dir,Standard,Module", ".")
		cmd.Env = append(os.Environ(), "GOOS="+platform, "GOARCH=amd64", "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal("go list: ", err)
		}
		for d := json.NewDecoder(bytes.NewReader(out)); ; {
			var p struct {
				Dir      string
				Standard bool
				Module   *struct {
					linked
					Main bool
				}
			}
			if err := d.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if p.Standard || p.Module.Main {
				continue
			}
			m := modules[p.Module.Path]
			if m == nil {
				m = &p.Module.linked
				m.folders = map[string]bool{}
				modules[m.Path] = m
			}
			for folder := p.Dir; strings.HasPrefix(folder, m.Dir); folder = filepath.Dir(folder) {
				m.folders[folder] = true
			}
		}
	}
	var all []*linked
	for _, m := range modules {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *linked) int { return cmp.Compare(a.Path, b.Path) })
	return all
}

var (
	licenceFile = regexp.MustCompile(`^(?i)(licen[sc]e|copying|notice|patents)(\.(txt|md))?$`)
	copyright   = regexp.MustCompile(`^\s*(Portions )?(Copyright |\([cC]\) ?[12])`)
	reserved    = regexp.MustCompile(`^(?i)\s*all rights reserved\.?$`)
	placeholder = regexp.MustCompile(`[\[{]yyyy[\]}]`)
)

// What a text is, by words that no other has.
var licenceWords = []struct{ name, words string }{
	{"Apache-2.0", "Apache License Version 2.0, January 2004"},
	{"Apache-2.0", "Licensed under the Apache License, Version 2.0"},
	{"BSD-3-Clause", "Neither the name"},
	{"ISC", "Permission to use, copy, modify, and/or distribute"},
	{"MIT", "Permission is hereby granted, free of charge"},
	{"MPL-2.0", "Mozilla Public License, version 2.0"},
}

// noticesText is what notices.txt should be, and each module's licences.
func noticesText(t *testing.T, modules []*linked) (string, map[string][]string) {
	t.Helper()
	licences := map[string][]string{}
	var texts []*licence
	add := func(who, text string, rights []string) {
		if len(rights) > 0 {
			who += ": " + strings.Join(rights, "; ")
		}
		same := func(l *licence) bool { return key(l.text) == key(text) }
		if i := slices.IndexFunc(texts, same); i >= 0 {
			texts[i].of = append(texts[i].of, who)
			return
		}
		texts = append(texts, &licence{text: text, of: []string{who}})
	}
	for _, m := range modules {
		for _, folder := range slices.Sorted(maps.Keys(m.folders)) {
			files, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if f.IsDir() || !licenceFile.MatchString(f.Name()) {
					continue
				}
				raw, err := os.ReadFile(filepath.Join(folder, f.Name()))
				if err != nil {
					t.Fatal(err)
				}
				for _, k := range licenceWords {
					if strings.Contains(joined(string(raw)), k.words) && !slices.Contains(licences[m.Path], k.name) {
						licences[m.Path] = append(licences[m.Path], k.name)
					}
				}
				who := m.Path + strings.TrimPrefix(filepath.ToSlash(folder), filepath.ToSlash(m.Dir))
				text, rights := string(raw), []string(nil)
				if !strings.HasPrefix(strings.ToUpper(f.Name()), "NOTICE") { // which is to be passed on as it is
					text, rights = withoutCopyright(text)
				}
				add(who, strings.Trim(text, "\n"), rights)
			}
		}
		if len(licences[m.Path]) == 0 {
			t.Errorf("no licence that is known here is in %s", m.Dir)
		}
		slices.Sort(licences[m.Path])
		if m.Path == "golang.org/x/sys" { // Go's own is the same, word for word
			raw, err := os.ReadFile(filepath.Join(m.Dir, "LICENSE"))
			if err != nil {
				t.Fatal(err)
			}
			text, rights := withoutCopyright(string(raw))
			add("Go's standard library and runtime", text, rights)
		}
	}
	var b strings.Builder
	b.WriteString("Drayage is under the Apache License 2.0. Its program has parts of these modules, each under its own licence;\nthe texts follow. The source of each is at the address; nothing is changed in it.\n\n")
	for _, m := range modules {
		fmt.Fprintf(&b, "%s %s (%s)\n    https://proxy.golang.org/%s/@v/%s.zip\n", m.Path, m.Version, strings.Join(licences[m.Path], ", "), escaped(m.Path), escaped(m.Version))
	}
	b.WriteString("Go's standard library and runtime (BSD-3-Clause)\n    https://go.dev/dl/\n")
	for _, l := range texts {
		fmt.Fprintf(&b, "\n%s\n\n", strings.Repeat("=", 100))
		for _, who := range l.of {
			fmt.Fprintln(&b, who)
		}
		fmt.Fprintf(&b, "\n%s\n", l.text)
	}
	return b.String(), licences
}

// withoutCopyright splits a licence into its text and the lines of copyright before it. One
// that consists of several stays as it is.
func withoutCopyright(raw string) (string, []string) {
	raw = strings.ReplaceAll(raw, "\r\n", "\n")
	var rights, rest []string
	if terms, how, ok := strings.Cut(raw, "END OF TERMS AND CONDITIONS"); ok && strings.Count(raw, "\n") < 250 { // what follows says how to apply it
		for line := range strings.Lines(how) {
			if copyright.MatchString(line) && !placeholder.MatchString(line) {
				rights = append(rights, strings.TrimSpace(line))
			}
		}
		raw = terms + "END OF TERMS AND CONDITIONS"
	}
	const head = 20 // lines in which copyright of the whole is named
	for i, line := range strings.Split(raw, "\n") {
		switch {
		case i < head && (copyright.MatchString(line) || reserved.MatchString(line)):
			rights = append(rights, strings.TrimSpace(line))
		case copyright.MatchString(line):
			return strings.Trim(raw, "\n"), nil
		default:
			rest = append(rest, strings.TrimRight(line, " \t"))
		}
	}
	return strings.Trim(strings.Join(rest, "\n"), "\n"), rights
}

// key is what two copies of a licence have in common.
func key(text string) string {
	k := joined(text)
	if strings.HasPrefix(k, "Apache License") { // copies differ in how points are numbered, and where they end
		k = strings.TrimSuffix(strings.ReplaceAll(k, "https:", "http:"), " END OF TERMS AND CONDITIONS")
		k = regexp.MustCompile(` \([a-d]\) `).ReplaceAllString(k, " ")
	}
	return k
}

// joined is a text without its breaks and indents, which differ between copies.
func joined(text string) string { return strings.Join(strings.Fields(text), " ") }

// escaped writes a module's path as the module proxy wants it: ! before what was a capital.
func escaped(path string) string {
	return regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(path, func(s string) string { return "!" + strings.ToLower(s) })
}
