package image_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/limitstest"

	"github.com/opencontainers/go-digest"
)

// places are fields of documents of all kinds: what goes before and after the value of one.
func places() map[string][2]string {
	const begin, layers = `{"schemaVersion":2,"config":` + desc + `,"layers":[` + desc + `]`, `{"schemaVersion":2,"config":` + desc
	old := `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + someDigest + `"}],"history":`
	return map[string][2]string{
		"the document":        {"", ""},
		"an index":            {`{"manifests":`, `}`},
		"a descriptor":        {`{"manifests":[`, `]}`},
		"a manifest's layers": {layers + `,"layers":`, `}`},
		"a config":            {`{"layers":[],"config":`, `}`},
		"annotations":         {begin + `,"annotations":`, `}`},
		"an unknown field":    {begin + `,"more":`, `}`},
		"a subject":           {begin + `,"subject":`, `}`},
		"urls":                {`{"config":` + desc + `,"layers":[{"digest":"` + someDigest + `","size":0,"urls":`, `}]}`},
		"data":                {`{"config":` + desc + `,"layers":[{"digest":"` + someDigest + `","size":0,"data":`, `}]}`},
		"a platform":          {`{"manifests":[{"digest":"` + someDigest + `","size":0,"platform":`, `}]}`},
		"os.features":         {`{"manifests":[{"digest":"` + someDigest + `","size":0,"platform":{"os":"linux","os.features":`, `}}]}`},
		"fsLayers":            {`{"schemaVersion":1,"history":[],"fsLayers":`, `}`},
		"a history":           {old, `}`},
		"signatures":          {`{"schemaVersion":1,"signatures":`, `}`},
		"diff ids":            {`{"os":"linux","rootfs":{"diff_ids":`, `}}`},
		"a config's history":  {`{"rootfs":{"diff_ids":[]},"history":`, `}`},
		"labels":              {`{"rootfs":{"diff_ids":[]},"config":{"Labels":`, `}}`},
		"a media type":        {`{"mediaType":`, `}`},
	}
}

// Whatever a document is, reading it takes little memory.
func TestDecodersOfDocumentsTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	want, err := image.ParsePlatform("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	read := func(raw []byte) {
		image.Payload(raw)
		if doc, err := image.Decode(raw); err == nil && doc.Index != nil {
			image.Choose(doc.Index, want)
			image.Platforms(doc.Index)
		} else if err != nil && (len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x1b")) {
			t.Errorf("not one short line: %.1000q", err)
		}
		if bytes.Contains(raw[:min(len(raw), 100)], []byte("rootfs")) {
			_, _ = image.DiffIDs(raw)
			_, _ = image.ConfigPlatform(raw)
		}
	}
	long := []string{"the document", "data", "diff ids", "labels"} // where all shapes are tried
	for place, around := range places() {
		t.Run(place, func(t *testing.T) {
			for shape, raw := range limitstest.Texts(around[0], around[1], image.MaxSize) {
				if limitstest.Units()[shape] == "" && !slices.Contains(long, place) {
					continue
				}
				if peak := limitstest.Peak(func() { read(raw) }); peak > limitstest.Most {
					t.Errorf("%s: %d MiB", shape, peak>>20)
				}
			}
		})
	}
	full := func(begin, unit, end string) []byte { return limitstest.Filled(begin, unit, end, image.MaxSize) }
	history, err := json.Marshal(`{"id":"` + someHex + `","container_config":{"Cmd":[` + strings.TrimSuffix(strings.Repeat(`"",`, 100_000), ",") + `]}}`)
	if err != nil {
		t.Fatal(err)
	}
	nested, err := json.Marshal(`{"id":"` + someHex + `","x":[` + strings.TrimSuffix(strings.Repeat(`{"a":{}},`, 60_000), ",") + `]}`)
	if err != nil {
		t.Fatal(err)
	}
	protected := base64.RawURLEncoding.EncodeToString(limitstest.Filled(`{"formatLength":[`, `{}`, `]}`, 3_000_000))
	for name, raw := range map[string][]byte{
		"layers":      full(`{"config":`+desc+`,"layers":[`, desc, `]}`),
		"manifests":   full(`{"manifests":[`, `{"digest":"`+someDigest+`","size":0,"annotations":{"a":"b"},"platform":{"os":"linux","architecture":"amd64"}}`, `]}`),
		"urls":        full(`{"config":`+desc+`,"layers":[`, `{"digest":"`+someDigest+`","size":0,"urls":["","","",""],"data":"aaaa"}`, `]}`),
		"diff ids":    full(`{"rootfs":{"diff_ids":[`, `"`+someDigest+`"`, `]}}`),
		"commands":    []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"` + someDigest + `"}],"history":[{"v1Compatibility":` + string(history) + `}]}`),
		"nested":      []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"` + someDigest + `"}],"history":[{"v1Compatibility":` + string(nested) + `}]}`),
		"a signature": []byte(`{"schemaVersion":1,"signatures":[{"protected":"` + protected + `"}]}`),
	} {
		t.Run("full of "+name, func(t *testing.T) {
			limitstest.Within(t, limitstest.Most, func() {
				read(raw)
				if doc, err := image.Decode(raw); err == nil && doc.Schema1 != nil {
					_, _ = doc.Schema1.Config([]digest.Digest{someDigest})
				}
			})
		})
	}
}

func TestDecodeHoldsDocumentsToTheLimits(t *testing.T) {
	many := func(n int) string { return strings.TrimSuffix(strings.Repeat(desc+",", n), ",") }
	index := func(n int) string { return `{"manifests":[` + many(n) + `]}` }
	manifest := func(n int) string { return `{"config":` + desc + `,"layers":[` + many(n) + `]}` }
	old := func(n int) string {
		return `{"schemaVersion":1,"fsLayers":[` + strings.TrimSuffix(strings.Repeat(`{},`, n), ",") + `],"history":[` + strings.TrimSuffix(strings.Repeat(`{},`, n), ",") + `]}`
	}
	deep := func(n int) string {
		return `{"manifests":[],"x":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	for _, c := range []struct{ name, body, want string }{
		{"as many manifests as may be", index(limits.Descriptors), ""},
		{"one more", index(limits.Descriptors + 1), "more than 10000 manifests"},
		{"as many layers as may be", manifest(limits.Descriptors), ""},
		{"one layer more", manifest(limits.Descriptors + 1), "more than 10000 layers"},
		{"more layers of schema 1", old(limits.Descriptors + 1), "more than 10000 layers"},
		{"as deep as may be", deep(limits.JSONDepth), ""},
		{"deeper", deep(limits.JSONDepth + 1), "nested more than 64 deep"},
		{"more values", `{"manifests":[],"x":[` + strings.Repeat("0,", limits.JSONValues) + `0]}`, "more than 250000 values"},
		{"larger", `{"manifests":[]` + strings.Repeat(" ", image.MaxSize) + `}`, "larger than 4 MiB"},
		{"layers twice", `{"config":` + desc + `,"layers":[],"layers":[` + desc + `]}`, `duplicate field "layers"`},
		{"layers in another case, too", `{"config":` + desc + `,"layers":[],"Layers":[` + desc + `]}`, `duplicate field "Layers"`},
		{"a digest twice", `{"manifests":[{"digest":"` + someDigest + `","Digest":"` + someDigest + `","size":0}]}`, `duplicate field "Digest"`},
		{"unknown fields that differ in case", `{"manifests":[],"x":1,"X":{"layers":1,"Layers":2}}`, ""},
		{"annotations that differ in case", `{"manifests":[],"annotations":{"a":"","A":""}}`, ""},
		{"an annotation twice", `{"manifests":[],"annotations":{"a":"","a":""}}`, `duplicate field "a"`},
		{"a field that paints the terminal", "{\"manifests\":[],\"\\u001b[31m\":1,\"\\u001b[31m\":2}", "duplicate field"},
		{"a platform that is half empty", `{"manifests":[{"digest":"` + someDigest + `","size":0,"platform":{"os":"linux"}}]}`, ""},
	} {
		_, err := image.Decode([]byte(c.body))
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, image.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%s: not one line: %q", c.name, err)
		}
	}
	for _, config := range []string{
		`{"os":"linux","OS":"windows"}`, `{"rootfs":{"diff_ids":[]},"rootfs":{"diff_ids":["` + someDigest + `"]}}`,
		`{"rootfs":{"diff_ids":[],"Diff_IDs":["` + someDigest + `"]}}`,
	} {
		_, errPlatform := image.ConfigPlatform([]byte(config))
		_, errDiff := image.DiffIDs([]byte(config))
		if !errors.Is(errPlatform, image.ErrInvalid) || !errors.Is(errDiff, image.ErrInvalid) {
			t.Errorf("%s: %v, %v", config, errPlatform, errDiff)
		}
	}
	ports := `{"os":"linux","architecture":"amd64","config":{"Labels":{"a":"","A":""},"ExposedPorts":{"80/tcp":{},"80/TCP":{}},"Volumes":{"/a":{},"/A":{}}}}`
	if p, err := image.ConfigPlatform([]byte(ports)); err != nil || p.OS != "linux" {
		t.Errorf("labels and volumes are anybody's names: %v", err)
	}
}

// The standard library and what is counted here agree on how many there are.
func FuzzCount(f *testing.F) {
	f.Add(`[]`)
	f.Add(`[{"a":[1,2]},"],[",null]`)
	f.Fuzz(func(t *testing.T, list string) {
		var all []json.RawMessage
		if json.Unmarshal([]byte(list), &all) != nil || len(all) == 0 {
			return
		}
		if got := image.Elements([]byte(list), len(all)); got != len(all) {
			t.Errorf("%q has %d elements, and %d were counted", list, len(all), got)
		}
	})
}
