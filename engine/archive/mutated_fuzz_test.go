package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"drayage/blobstore"
	"drayage/engine/archive"
	"drayage/engine/image"
	"drayage/engine/limitstest"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzMutated imports real archives, ours and others', that were tampered with: members that are
// changed, swapped, doubled, missing, renamed and linked, headers that lie, JSON with other values,
// in all the forms that an archive comes in. What comes in is whole, and nothing is anywhere else.
func FuzzMutated(f *testing.F) {
	bases := realArchives(f)
	for base := range bases {
		f.Add(uint8(base), uint8(base%len(forms)), []byte{})
	}
	for n, program := range [][]byte{
		{opJSON, 1, 3, 7, opHeal}, {opJSON, 1, 5, 12}, {opDelete, 4}, {opDouble, 1, opFlip, 4, 0, 9, 255}, {opKind, 4, 1, 3}, {opKind, 4, 0, 8, opRename, 2, 5},
		{opSparse, 5, 0, 4}, {opSparse, 5, 1, 4}, {opSparse, 5, 2, 4}, {opSparse, 5, 3, 4}, {opSize, 3, 1}, {opPax, 3, 2, opSwap, 1, 3},
		{opFill, 1, 0, 6, opHeal}, {opCut, 128, 0}, {opOverwrite, 2, 0, 7}, {opKey, 2, 1, opHeal, opCopy, 1, 2},
	} {
		f.Add(uint8(n), uint8(n/2), program)
		f.Add(uint8(n+6), uint8(n), program)
	}
	f.Fuzz(func(t *testing.T, base, form uint8, program []byte) {
		if len(program) > 200 {
			return
		}
		top := t.TempDir()
		files := changed(bases[int(base)%len(bases)], program)
		name, stdin := forms[int(form)%len(forms)](t, top, files)
		store, err := blobstore.OpenWith(filepath.Join(top, "store"), blobstore.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		outside := listing(t, top)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var images []archive.Image
		run := func() {
			images, err = archive.Import(ctx, store, name, reader(stdin), archive.Options{})
		}
		if files.filled { // a few KiB may become much
			limitstest.Within(t, limitstest.Most, run)
		} else {
			run()
		}
		if ctx.Err() != nil {
			t.Fatal("it takes longer than ten seconds")
		}
		oneLine(t, err)
		if now := listing(t, top); !maps.Equal(outside, now) {
			t.Errorf("files outside of the store: %v, and were %v", now, outside)
		}
		whole(t, store, images)
		if digests, err := archive.Digests(ctx, name, reader(stdin), 0); err != nil {
			oneLine(t, err)
		} else if i := slices.IndexFunc(digests, func(d digest.Digest) bool { return d.Validate() != nil }); i >= 0 {
			t.Errorf("Digests gives %q", digests[i])
		}
		again, errAgain := archive.Import(ctx, store, name, reader(stdin), archive.Options{})
		if len(again) != len(images) || (err == nil) != (errAgain == nil) {
			t.Errorf("the second time it gives %v, %v; the first time %v, %v", again, errAgain, images, err)
		}
		for i, img := range again {
			if i < len(images) && (img.Name != images[i].Name || img.Digest != images[i].Digest) {
				t.Errorf("the second time it gives %v, and the first time %v", img, images[i])
			}
		}
	})
}

// whole fails when the store has an image that isn't, or a blob that is not what it says, or when
// something is left behind.
func whole(t *testing.T, store *blobstore.Store, images []archive.Image) {
	t.Helper()
	found, err := store.Verify(t.Context(), blobstore.Verification{})
	if err != nil || len(found.Damaged) > 0 {
		t.Errorf("verifying the store: %v, %v", found.Damaged, err)
	}
	used, err := store.ImageUsages()
	if err != nil {
		t.Error(err)
	}
	for _, img := range images {
		if !slices.ContainsFunc(used, func(u blobstore.ImageUsage) bool { return u.Name == img.Name && u.Target.Digest == img.Digest }) {
			t.Errorf("%+v was imported, and the store has no such image", img)
		}
	}
	for _, u := range used {
		if len(u.Missing) > 0 || !slices.Contains(u.Blobs, u.Target.Digest) {
			t.Errorf("%s is listed and lacks %v", u.Name, u.Missing)
		}
		complete := false
		for _, d := range u.Blobs {
			raw, err := store.Read(d, image.MaxSize)
			if err != nil {
				continue
			}
			doc, err := image.DecodeVerified(raw, d)
			if err != nil || doc.Manifest == nil || doc.Manifest.Config.Digest == "" {
				continue
			}
			lacks := 0
			for _, b := range append([]ocispec.Descriptor{doc.Manifest.Config}, doc.Manifest.Layers...) {
				if !slices.Contains(u.Blobs, b.Digest) {
					lacks++
				}
			}
			complete = complete || lacks == 0
		}
		if !complete {
			t.Errorf("%s is listed, and has no manifest with all that it needs", u.Name)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(store.Dir(), "ingest", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// oneLine fails when an error, or one of several that are joined, is not a printable line.
func oneLine(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		const longest = 2000
		if line == "" || len(line) > longest || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("not a printable line: %.3000q", line)
		}
	}
}

// listing is what is in a folder beside the store, with sizes.
func listing(t *testing.T, top string) map[string]int64 {
	t.Helper()
	out := make(map[string]int64)
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if name == filepath.Join(top, "store") {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			out[name] = info.Size()
		} else if err == nil {
			out[name] = -1
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func reader(raw []byte) io.Reader {
	if raw == nil {
		return nil
	}
	return bytes.NewReader(raw)
}

// archived is an archive as its members, of which some may not be tar's.
type archived struct {
	members []rawMember
	// patches change the bytes of the tar, cut ends it early: as parts of its size, 1/65536.
	patches [][2]int
	cut     int
	filled  bool // something in it was made very wide
}

// rawMember is a member whose header may lie.
type rawMember struct {
	name, link, text string
	kind             byte
	size             string // the field of the header, "" for the text's size
	pax              string // records of an extended header before it
}

// realArchives are the archives that other tools write, and those that drayage does.
func realArchives(f *testing.F) [][]rawMember {
	f.Helper()
	small := registrytest.Build("linux/amd64", registrytest.Layer(1, 100), registrytest.Layer(2, 50))
	arm := registrytest.BuildDocker("linux/arm64", registrytest.Layer(1, 100))
	plain := registrytest.Index(ocispec.MediaTypeImageIndex, small.Descriptor, arm.Descriptor)
	several := layout(f, small, "")
	for _, b := range arm.Blobs {
		several = append(several, blob(b))
	}
	several = append(several, blob(arm.Manifest), blob(plain))
	d := registrytest.Describe(ocispec.MediaTypeImageIndex, plain)
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "team/app:1"}
	signed := registrytest.Artifact("application/signature", &small.Descriptor, []byte("signature"))
	several = append(several, blob(signed.Manifest))
	for _, b := range signed.Blobs {
		several = append(several, blob(b))
	}
	several[1].text = string(registrytest.Index(ocispec.MediaTypeImageIndex, d, signed.Descriptor))
	absent := small.Layers[0]
	delta := append(without(layout(f, small, "docker.io/team/app:1"), blob(small.Blobs[absent.Digest]).name),
		entry{name: "drayage-since.json", text: fmt.Sprintf(`{"version":1,"since":"x","absent":[{"digest":%q,"size":%d}]}`, absent.Digest, absent.Size)})
	docker := saved(f, small, "team/app:1")
	linked := append(append([]entry{}, docker[:2]...), entry{name: fmt.Sprintf("%064x/layer.tar", 1), link: "../real.tar"}, entry{name: "./real.tar", text: docker[2].text}, docker[3])
	old := []entry{
		{name: "repositories", text: `{"team/app":{"1":"b"}}`}, {name: "a/json", text: `{"id":"a","os":"linux","architecture":"amd64"}`}, {name: "a/layer.tar", text: docker[1].text},
		{name: "b/json", text: `{"id":"b","parent":"a","config":{"Cmd":["x"]}}`}, {name: "b/layer.tar", text: docker[2].text}, {name: "b/VERSION", text: "1.0"},
	}
	var out [][]rawMember
	for _, entries := range [][]entry{layout(f, small, "docker.io/team/app:1"), docker, several, delta, linked, old} {
		out = append(out, membersOf(f, pack(f, entries...)))
	}
	golden, err := filepath.Glob(filepath.Join("..", "..", "cmd", "drayage", "testdata", "golden", "*.tar"))
	if err != nil || len(golden) == 0 {
		f.Fatalf("the golden archives: %v", err)
	}
	for _, name := range golden {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, membersOf(f, raw))
	}
	return out
}

func membersOf(f *testing.F, raw []byte) []rawMember {
	f.Helper()
	var out []rawMember
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		text, errRead := io.ReadAll(r)
		if err := errors.Join(err, errRead); err != nil {
			f.Fatal(err)
		}
		out = append(out, rawMember{name: h.Name, link: h.Linkname, kind: h.Typeflag, text: string(text)})
	}
}

// What a program has: an operation and its arguments, a byte each.
const (
	opFlip      = iota // MEMBER OFFSET OFFSET BITS: of its text
	opDelete           // MEMBER
	opDouble           // MEMBER: again at the end
	opSwap             // MEMBER MEMBER: their places
	opCopy             // MEMBER MEMBER: the text of the other
	opRename           // MEMBER NAME
	opKind             // MEMBER KIND NAME: with that link
	opSize             // MEMBER SIZE: in the header alone
	opPax              // MEMBER RECORD
	opSparse           // MEMBER FORM HOLE
	opJSON             // MEMBER PLACE VALUE
	opKey              // MEMBER PLACE: a key that is there twice
	opFill             // MEMBER PLACE UNIT: a value with very many
	opHeal             // digests and sizes are made right again
	opCut              // OFFSET OFFSET: it ends there
	opOverwrite        // OFFSET OFFSET BYTE: of the tar
	ops
)

// changed is an archive after a program has run over it.
func changed(base []rawMember, program []byte) *archived {
	a := &archived{members: slices.Clone(base), cut: -1}
	next := func() int {
		if len(program) == 0 {
			return 0
		}
		b := program[0]
		program = program[1:]
		return int(b)
	}
	for steps := 0; len(program) > 0 && steps < 40 && len(a.members) > 0; steps++ {
		op := next() % ops
		if op == opHeal {
			a.heal()
			continue
		}
		if op == opCut {
			a.cut = next()<<8 + next()
			continue
		}
		if op == opOverwrite {
			a.patches = append(a.patches, [2]int{next()<<8 + next(), next()})
			continue
		}
		n := next() % len(a.members)
		m := &a.members[n]
		switch op {
		case opFlip:
			if at := next()<<8 + next(); len(m.text) > 0 {
				b := []byte(m.text)
				b[at%len(b)] ^= byte(next())
				m.text = string(b)
			}
		case opDelete:
			a.members = slices.Delete(a.members, n, n+1)
		case opDouble:
			a.members = append(a.members, *m)
		case opSwap:
			other := next() % len(a.members)
			a.members[n], a.members[other] = a.members[other], a.members[n]
		case opCopy:
			m.text = a.members[next()%len(a.members)].text
		case opRename:
			m.name = a.nasty(next())
		case opKind:
			const kinds = "0\x00125346xgLKSV7A"
			m.kind = kinds[next()%len(kinds)]
			m.link = a.nasty(next())
		case opSize:
			m.size = sizes[next()%len(sizes)]
		case opPax:
			m.pax += a.paxRecord(next())
		case opSparse:
			a.sparse(m, next(), next())
		case opJSON:
			m.text = changeJSON(m.text, next(), a.value(next()))
		case opKey:
			place := next()
			keys := []string{`"layers":[],`, `"Layers":[{}],`, `"manifests":[],`, `"digest":"x",`, `"config":{},`, `"Config":"../x",`, `"a":0,`}
			if i := strings.IndexByte(m.text, '{'); i >= 0 {
				m.text = m.text[:i+1] + keys[place%len(keys)] + m.text[i+1:]
			}
		case opFill:
			units := slices.Sorted(maps.Values(limitstest.Units()))
			place, unit := next(), next()
			m.text = changeJSON(m.text, place, json.RawMessage(limitstest.Filled("[", units[unit%len(units)], "]", 200<<10)))
			a.filled = true
		}
	}
	return a
}

var sizes = []string{"77777777777\x00", "00000000000\x00", "\x80\x00\x00\x00\x3f\xff\xff\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "00000001000\x00", "-0000000001\x00", "zzz", "00010000000\x00"}

// nasty is a name that a member or a link has no business to have, or another member's.
func (a *archived) nasty(n int) string {
	names := []string{
		"../../outside", "/tmp/outside", "a/../../b", "..", ".", "", "./", "a//b", strings.Repeat("x", 5000), "\x1b[31mx", "a\nb", "index.json", "manifest.json", "repositories", "oci-layout",
		"drayage-since.json", "blobs/sha256/" + strings.Repeat("0", 64), "blobs/sha512/" + strings.Repeat("0", 128), "blobs/md5/x", "blobs/sha256/../../x", "store/drayage.json", "._x", "__MACOSX/x",
		"a/json", "a/layer.tar", "C:\\x", "\xff\xfe", "./index.json", "../store/roots/x", "x/VERSION",
	}
	if n < len(names) {
		return names[n]
	}
	return a.members[n%len(a.members)].name
}

// paxRecord is a record of an extended header, which may be malformed (POSIX pax).
func (a *archived) paxRecord(n int) string {
	records := []string{
		"path=" + a.nasty(n/8), "linkpath=" + a.nasty(n/8), "size=" + []string{"0", "-1", "99999999999999999999", "5", "1000000000000"}[n/8%5],
		"GNU.sparse.name=" + a.nasty(n/8), "GNU.sparse.realsize=100000", "GNU.sparse.map=0,1,99999,1", "path=a\x00b", "mtime=1e999",
	}
	record := " " + records[n%len(records)] + "\n"
	size := len(record) + len(strconv.Itoa(len(record)))
	if len(strconv.Itoa(size)) > len(strconv.Itoa(len(record))) {
		size++
	}
	return strconv.Itoa(size) + record
}

// sparse makes a member a sparse file: in the old GNU form or in those of pax 0.1 and 1.0.
func (a *archived) sparse(m *rawMember, form, hole int) {
	real := len(m.text) + hole<<8
	record := func(text string) string {
		for n := len(text) + 3; ; n++ {
			if s := strconv.Itoa(n) + " " + text + "\n"; len(s) == n {
				return s
			}
		}
	}
	switch form % 4 {
	case 0:
		m.kind = tar.TypeGNUSparse
	case 1:
		m.pax += record("GNU.sparse.size="+strconv.Itoa(real)) + record("GNU.sparse.numblocks=1") + record(fmt.Sprintf("GNU.sparse.map=%d,%d", real-len(m.text), len(m.text)))
	case 2:
		m.pax += record("GNU.sparse.major=1") + record("GNU.sparse.minor=0") + record("GNU.sparse.name="+m.name) + record("GNU.sparse.realsize="+strconv.Itoa(real))
		list := fmt.Sprintf("1\n%d\n%d\n", real-len(m.text), len(m.text))
		m.text = list + strings.Repeat("\x00", 512-len(list)) + m.text
	case 3: // without any data
		m.pax += record("GNU.sparse.major=1") + record("GNU.sparse.minor=0") + record("GNU.sparse.name="+m.name) + record("GNU.sparse.realsize="+strconv.Itoa(real))
		list := "0\n"
		m.text = list + strings.Repeat("\x00", 512-len(list))
	}
}

// value is one that a field of JSON may not have.
func (a *archived) value(n int) json.RawMessage {
	values := []string{
		`null`, `0`, `-1`, `1e999`, `18446744073709551616`, `""`, `"../../x"`, `[]`, `{}`, `[[]]`, `[{}]`, `true`, `"sha256:` + strings.Repeat("0", 64) + `"`, `"sha256:x"`, `"\u001b[31mx\n"`,
		strings.Repeat("[", 1000) + strings.Repeat("]", 1000), `["a","a"]`, `"` + strings.Repeat("x", 3000) + `"`, `{"a":{"b":"c"}}`, `9223372036854775807`, `"docker.io/other:2"`, `"application/vnd.oci.image.index.v1+json"`,
		`"application/vnd.oci.image.layer.nondistributable.v1.tar"`, `2`, `1`, `{"a":"b"}`, `[null]`,
	}
	if n < len(values) {
		return json.RawMessage(values[n])
	}
	m := a.members[n%len(a.members)]
	text := m.name
	if n%2 == 0 {
		text = digest.FromString(m.text).String()
	}
	raw, err := json.Marshal(strings.ToValidUTF8(text, "?"))
	if err != nil {
		panic(err)
	}
	return raw
}

// changeJSON puts a value at a place of a document: the n-th value as they are met. A text that
// is no JSON stays as it is.
func changeJSON(text string, n int, value json.RawMessage) string {
	var doc any
	if json.Unmarshal([]byte(text), &doc) != nil {
		return text
	}
	total := 0
	visit(doc, func(v any) any { total++; return v })
	at := n % (total + 1)
	doc = visit(doc, func(v any) any {
		if at--; at == 0 {
			return value
		}
		return v
	})
	raw, err := json.Marshal(doc)
	if err != nil {
		return text // the value is no JSON once it is within another
	}
	return string(raw)
}

// visit puts another value for each below one, in a fixed order.
func visit(v any, f func(any) any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			v[k] = visit(f(v[k]), f)
		}
	case []any:
		for i := range v {
			v[i] = visit(f(v[i]), f)
		}
	}
	return v
}

// heal names the blobs by what they have become, and mends the digests and sizes of what lists
// them, so that what was changed isn't refused for its digest.
func (a *archived) heal() {
	for range 4 { // a blob, its manifest, its index, index.json
		became := make(map[string]string)
		sizes := make(map[string]int)
		for i, m := range a.members {
			dir, hex := path.Split(m.name)
			if got := digest.FromString(m.text).Encoded(); dir == "blobs/sha256/" && hex != got {
				became[hex], sizes[got] = got, len(m.text)
				a.members[i].name = dir + got
			}
		}
		if len(became) == 0 {
			return
		}
		for i, m := range a.members {
			text := m.text
			for old, now := range became {
				text = strings.ReplaceAll(text, old, now)
			}
			var doc any
			if text == m.text || json.Unmarshal([]byte(text), &doc) != nil {
				continue
			}
			visit([]any{doc}, func(v any) any {
				fields, ok := v.(map[string]any)
				if !ok {
					return v
				}
				d, _ := fields["digest"].(string)
				if size, ok := sizes[strings.TrimPrefix(d, "sha256:")]; ok {
					fields["size"] = size
				}
				return v
			})
			if raw, err := json.Marshal(doc); err == nil {
				a.members[i].text = string(raw)
			}
		}
	}
}

// tar is the archive's bytes.
func (a *archived) tar() []byte {
	var b bytes.Buffer
	write := func(m rawMember) {
		h := make([]byte, 512)
		copy(h[:100], m.name)
		copy(h[100:], "0000644\x00")
		copy(h[108:], "0000000\x00")
		copy(h[116:], "0000000\x00")
		size := m.size
		if size == "" {
			size = fmt.Sprintf("%011o\x00", len(m.text))
		}
		copy(h[124:136], size)
		copy(h[136:], "00000000000\x00")
		h[156] = m.kind
		copy(h[157:257], m.link)
		copy(h[257:], "ustar\x0000")
		if m.kind == tar.TypeGNUSparse { // one piece at the end of a hole
			copy(h[257:], "ustar  \x00")
			copy(h[386:], fmt.Sprintf("%011o\x00%011o\x00", 4096, len(m.text)))
			copy(h[483:], fmt.Sprintf("%011o\x00", 4096+len(m.text)))
		}
		fixSum(h)
		b.Write(h)
		b.WriteString(m.text)
		b.Write(make([]byte, -len(m.text)&511))
	}
	for _, m := range a.members {
		if len(m.name) > 100 && m.kind != tar.TypeGNUSparse {
			write(rawMember{name: "././@LongLink", kind: tar.TypeGNULongName, text: m.name + "\x00"})
		}
		if len(m.link) > 100 {
			write(rawMember{name: "././@LongLink", kind: tar.TypeGNULongLink, text: m.link + "\x00"})
		}
		if m.pax != "" {
			write(rawMember{name: "pax", kind: tar.TypeXHeader, text: m.pax})
		}
		write(m)
	}
	b.Write(make([]byte, 1024))
	return a.spoilt(b.Bytes())
}

// spoilt has the changes that are to bytes and not to members.
func (a *archived) spoilt(raw []byte) []byte {
	const whole = 1 << 16
	for _, p := range a.patches {
		raw[p[0]*len(raw)/whole] = byte(p[1])
	}
	if a.cut >= 0 {
		raw = raw[:a.cut*len(raw)/whole]
	}
	return raw
}

// forms are how an archive may come: what Import is given for one.
var forms = []func(t *testing.T, top string, a *archived) (name string, stdin []byte){
	func(_ *testing.T, _ string, a *archived) (string, []byte) { return "-", a.tar() },
	func(t *testing.T, top string, a *archived) (string, []byte) {
		return put(t, filepath.Join(top, "x.tar"), a.tar()), nil
	},
	func(t *testing.T, top string, a *archived) (string, []byte) {
		return put(t, filepath.Join(top, "x.tgz"), squeezed(t, a, compress.Gzip)), nil
	},
	func(t *testing.T, _ string, a *archived) (string, []byte) { return "-", squeezed(t, a, compress.Zstd) },
	folder,
	func(t *testing.T, top string, a *archived) (string, []byte) { // two volumes
		raw := a.tar()
		put(t, filepath.Join(top, "x.tar.002"), raw[len(raw)/2:])
		return put(t, filepath.Join(top, "x.tar.001"), raw[:len(raw)/2]), nil
	},
}

func put(t *testing.T, name string, raw []byte) string {
	t.Helper()
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// squeezed is compressed, and spoilt after that.
func squeezed(t *testing.T, a *archived, format compress.Format) []byte {
	t.Helper()
	var b bytes.Buffer
	z := compress.NewWriter(&b, format)
	_, err := z.Write((&archived{members: a.members, cut: -1}).tar())
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return a.spoilt(b.Bytes())
}

// folder is the archive unpacked, as far as its names can be names of files.
func folder(t *testing.T, top string, a *archived) (string, []byte) {
	t.Helper()
	dir := filepath.Join(top, "unpacked")
	root, err := func() (*os.Root, error) {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		return os.OpenRoot(dir)
	}()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, m := range a.members { // what can't be made is left out
		_ = root.MkdirAll(path.Dir(path.Clean(m.name)), 0o700)
		if m.kind == tar.TypeSymlink {
			_ = root.Symlink(m.link, path.Clean(m.name))
		} else {
			_ = root.WriteFile(path.Clean(m.name), []byte(m.text), 0o600)
		}
	}
	return dir, nil
}
