// Browser opens HTML files in headless Chromium and says, a line a finding, where
// they ask for something from elsewhere, shut out readers who see or hear them
// otherwise (by axe-core), have to be pushed sideways, or lose something in print.
// With any finding, its exit status is 1.
//
//	browser [-axe axe.min.js] -shots DIR PAGE.html|http://HOST/...
//
// Without axe it looks at the rest. A page of a server may ask that server for more. It leaves a picture for each width and colour scheme, and a print as PDF, in DIR.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/chromedp/cdproto/emulation"
	browserlog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const (
	// On the screen the page as a whole counts; in print, which the browser shrinks to fit, what it cuts off.
	beyondEdge = `Math.max(...[...document.querySelectorAll("*")].map(e =>
		(matchMedia("print").matches ? getComputedStyle(e).overflowX != "visible" : e == document.documentElement) ? e.scrollWidth - e.clientWidth : 0))`
	// What stands in for axe where it isn't there finds nothing.
	noAxe = `globalThis.axe = {run: async () => ({violations: []})}`
	// Preloading would have axe ask for style sheets, which would count as the page's requests.
	runAxe = `axe.run(document, {preload: false, resultTypes: ["violations"]}).then(result => result.violations.flatMap(rule =>
		rule.nodes.filter(node => ["serious", "critical"].includes(node.impact)).map(node =>
			node.impact + ": " + rule.help + ", at " + node.target.flat().join(" ") + " (" + rule.id + ")")))`
)

var failed atomic.Bool // set from the goroutine that hears the browser, too

func main() {
	log.SetFlags(0)
	axe := flag.String("axe", "", "axe-core's axe.min.js, if there is one")
	shots := flag.String("shots", "", "a folder for pictures and prints")
	flag.Parse()
	if *shots == "" || flag.NArg() == 0 {
		log.Fatal("usage: browser [-axe axe.min.js] -shots DIR PAGE.html...")
	}
	script := []byte(noAxe)
	var err error
	if *axe != "" {
		script, err = os.ReadFile(*axe)
	}
	if err = errors.Join(err, os.MkdirAll(*shots, 0o755)); err != nil {
		log.Fatal(err)
	}
	for _, file := range flag.Args() {
		p := page{file: file, shots: *shots}
		if err := p.check(string(script)); err != nil {
			log.Fatalf("%s: %v", file, err)
		}
	}
	if failed.Load() {
		os.Exit(1)
	}
}

type page struct {
	file, shots, url string
	home             string // where it is from, "" for a file: what it may ask for
}

// find reports what is wrong.
func (p *page) find(format string, args ...any) {
	failed.Store(true)
	fmt.Printf("%s: %s\n", p.file, fmt.Sprintf(format, args...))
}

// check has a browser of its own for the page, so that nothing is kept from another.
func (p *page) check(axe string) error {
	path, err := filepath.Abs(p.file)
	if err != nil {
		return err
	}
	p.url = (&url.URL{Scheme: "file", Path: path}).String()
	if u, err := url.Parse(p.file); err == nil && u.Scheme == "http" {
		p.url, p.home = p.file, "http://"+u.Host+"/"
	}
	limit, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// As root, chromedp leaves Chromium's sandbox off by itself: it can't work there.
	// No name resolves (this machine has an address), so a page that does ask for something gets it from nowhere.
	ctx, stop := chromedp.NewContext(limit, chromedp.WithAllocatorOptions(chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")))
	defer stop()
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		return err
	}
	// What is evaluated from outside is not subject to the page's policy about scripts:
	// so that stays in force, and breaches of it are heard of.
	if err := chromedp.Do(ctx, chromedp.Navigate(p.url), chromedp.Evaluate[chromedp.Void](axe)); err != nil {
		return err
	}
	for _, scheme := range []string{"light", "dark"} {
		// A phone, or a desk's screen enlarged fourfold; a tablet; a desk's screen.
		for _, width := range []int64{320, 768, 1280} {
			if err := p.look(ctx, scheme, width); err != nil {
				return fmt.Errorf("%s, %d pixels wide: %w", scheme, width, err)
			}
		}
	}
	// A4 between margins of 1 cm. The dark scheme remains, as paper is white with it too.
	if err := p.fit(ctx, "print", "dark", 718); err != nil {
		return err
	}
	pdf, err := chromedp.Run(ctx, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4), chromedp.PDFPrintBackground()))
	if err != nil || !bytes.HasPrefix(pdf, []byte("%PDF-")) {
		p.find("can't be printed: %d bytes, %v", len(pdf), err)
	}
	return p.keep("print.pdf", pdf)
}

// hear hears of requests and complaints. What comes before the answer to a command
// is heard before that command returns, so nothing here needs to be waited for.
func (p *page) hear(event any) {
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if e.Request.URL != p.url && !(p.home != "" && strings.HasPrefix(e.Request.URL, p.home)) && !strings.HasPrefix(e.Request.URL, "data:") {
			p.find("asks for %s", e.Request.URL)
		}
	case *browserlog.EventEntryAdded: // breaches of the page's policy are among these
		p.find("console: %s: %s", e.Entry.Level, e.Entry.Text)
	case *runtime.EventConsoleAPICalled, *runtime.EventExceptionThrown:
		p.find("has a script that talks, or fails: %T", e)
	}
}

// fit lays the page out at a width, and checks that nothing is beyond the edge.
func (p *page) fit(ctx context.Context, media, scheme string, width int64) error {
	as := emulation.SetEmulatedMediaParams{Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, as)
	if err = errors.Join(err, chromedp.Do(ctx, chromedp.EmulateViewport(width, 900))); err != nil {
		return err
	}
	beyond, err := chromedp.Run(ctx, chromedp.Evaluate[int](beyondEdge))
	if beyond > 0 {
		p.find("%s, %s, %d pixels wide: %d pixels are beyond the edge", media, scheme, width, beyond)
	}
	return err
}

// look checks the page at one width in one colour scheme, and takes its picture.
func (p *page) look(ctx context.Context, scheme string, width int64) error {
	if err := p.fit(ctx, "screen", scheme, width); err != nil {
		return err
	}
	found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](runAxe, chromedp.EvalAwaitPromise))
	if err != nil {
		return fmt.Errorf("axe: %w", err)
	}
	for _, f := range found {
		p.find("%s, %d pixels wide: %s", scheme, width, f)
	}
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100)) // 100 of 100 is PNG
	if err != nil {
		return err
	}
	return p.keep(fmt.Sprintf("%s-%d.png", scheme, width), picture)
}

// keep writes a file about the page.
func (p *page) keep(what string, data []byte) error {
	name := "served"
	if p.home == "" {
		name = strings.TrimSuffix(filepath.Base(p.file), filepath.Ext(p.file))
	}
	return os.WriteFile(filepath.Join(p.shots, name+"-"+what), data, 0o644)
}
