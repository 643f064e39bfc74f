package image_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"drayage/engine/image"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	desc       = `{"digest":"` + someDigest + `","size":0}`
	ociType    = ocispec.MediaTypeImageManifest
	ociIndex   = ocispec.MediaTypeImageIndex
)

const (
	someHex  = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	otherHex = "f3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// schema1 is a manifest with a history, top layer first.
func schema1(history ...string) string {
	var layers, texts []string
	for _, h := range history {
		raw, err := json.Marshal(h)
		if err != nil {
			panic(err)
		}
		layers = append(layers, `{"blobSum":"`+someDigest+`"}`)
		texts = append(texts, `{"v1Compatibility":`+string(raw)+`}`)
	}
	return `{"schemaVersion":1,"fsLayers":[` + strings.Join(layers, ",") + `],"history":[` + strings.Join(texts, ",") + `]}`
}

func TestSchema1(t *testing.T) {
	doc, err := image.Decode([]byte(schema1(
		`{"id":"`+otherHex+`","parent":"`+someHex+`","os":"linux","architecture":"arm","config":{"Cmd":["x"]},"throwaway":true}`,
		`{"id":"`+otherHex+`","parent":"`+someHex+`"}`, // pushed twice
		`{"id":"`+someHex+`","created":"2015-01-01T00:00:00Z","container_config":{"Cmd":["/bin/sh","-c","make"]}}`)))
	if err != nil {
		t.Fatal(err)
	}
	s := doc.Schema1
	if s == nil || len(s.Layers) != 2 || s.Layers[0].ID != someHex || len(s.Kept()) != 2 {
		t.Fatalf("%+v", s)
	}
	raw, err := s.Config([]digest.Digest{someDigest, someDigest})
	if err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	if diff, err := image.DiffIDs(raw); err != nil || len(diff) != 2 || len(config.History) != 2 || config.History[0].CreatedBy != "/bin/sh -c make" {
		t.Errorf("%s: %v", raw, err)
	}
	if strings.Contains(string(raw), `"id"`) || strings.Contains(string(raw), "throwaway") {
		t.Errorf("%s", raw)
	}
}

// The digest of a signed manifest is over what was signed.
func TestPayloadOfASignedManifest(t *testing.T) {
	plain := []byte("{\n   \"schemaVersion\": 1,\n   \"name\": \"x\"\n}")
	signed := []byte("{\n   \"schemaVersion\": 1,\n   \"name\": \"x\",\n   \"signatures\": [{\"protected\":\"" +
		base64.RawURLEncoding.EncodeToString([]byte(`{"formatLength":`+fmt.Sprint(len(plain)-2)+`,"formatTail":"Cn0"}`)) + "\"}]\n}")
	if got := image.Payload(signed); string(got) != string(plain) {
		t.Errorf("got %q", got)
	}
	for _, odd := range []string{``, `{}`, `{"schemaVersion":1,"signatures":[{"protected":"!"}]}`, `{"schemaVersion":2,"signatures":[{"protected":"e30"}]}`,
		`{"schemaVersion":1,"signatures":[{"protected":"` + base64.RawURLEncoding.EncodeToString([]byte(`{"formatLength":999999,"formatTail":"Cn0"}`)) + `"}]}`} {
		if got := image.Payload([]byte(odd)); string(got) != odd {
			t.Errorf("%s became %s", odd, got)
		}
	}
}

func TestDecodeSettlesWhatItIs(t *testing.T) {
	manifest := `"schemaVersion":2,"config":` + desc + `,"layers":[` + desc + `]`
	index := `"schemaVersion":2,"manifests":[` + desc + `]`
	docker := strings.Replace(manifest, `{"digest"`, `{"mediaType":"`+image.DockerConfig+`","digest"`, 1)
	for _, c := range []struct{ name, body, want string }{
		{"own type", `{"mediaType":"` + image.DockerManifest + `",` + manifest + `}`, image.DockerManifest},
		{"no own type, a config of Docker's", `{` + docker + `}`, image.DockerManifest},
		{"no own type", `{` + manifest + `}`, ociType},
		{"index without type", `{` + index + `}`, ociIndex},
		{"list", `{"mediaType":"` + image.DockerList + `",` + index + `}`, image.DockerList},
		{"zero layers", `{"config":` + desc + `,"layers":[]}`, ociType},
		{"unknown fields", `{"new":1,` + manifest + `}`, ociType},
	} {
		doc, err := image.Decode([]byte(c.body))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := doc.Descriptor.MediaType; got != c.want {
			t.Errorf("%s: media type %s, want %s", c.name, got, c.want)
		}
		if doc.Descriptor.Digest != digest.FromString(c.body) || doc.Descriptor.Size != int64(len(c.body)) {
			t.Errorf("%s: descriptor %v is not of the bytes", c.name, doc.Descriptor)
		}
		if (doc.Index == nil) == (doc.Manifest == nil) {
			t.Errorf("%s: want an index or a manifest", c.name)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	layer := func(d, size string) string {
		return `{"config":` + desc + `,"layers":[{"digest":"` + d + `","size":` + size + `}]}`
	}
	for _, c := range []struct {
		name, body string
		want       error
	}{
		{"nothing", "", image.ErrInvalid},
		{"no JSON", "hello", image.ErrInvalid},
		{"trailing bytes", `{"manifests":[]} {}`, image.ErrInvalid},
		{"web page", "<html><title> Sign in </title>", image.ErrInvalid},
		{"another JSON", `{"a":1}`, image.ErrInvalid},
		{"a list", `[]`, image.ErrInvalid},
		{"index and manifest at once", `{"manifests":[],"layers":[]}`, image.ErrInvalid},
		{"type of an index without manifests", `{"mediaType":"` + ociType + `"}`, image.ErrInvalid},
		{"no config", `{"layers":[]}`, image.ErrInvalid},
		{"digest that climbs", layer("sha256:../../x", "1"), image.ErrInvalid},
		{"digest too short", layer("sha256:abcd", "1"), image.ErrInvalid},
		{"digest of an unknown algorithm", layer("md5:d41d8cd98f00b204e9800998ecf8427e", "1"), image.ErrInvalid},
		{"negative size", layer(someDigest, "-1"), image.ErrInvalid},
		{"size that overflows", layer(someDigest, "99999999999999999999"), image.ErrInvalid},
		{"sizes that overflow together", `{"config":` + desc + `,"layers":[{"digest":"` + someDigest + `","size":9223372036854775807},{"digest":"` + someDigest + `","size":1}]}`, image.ErrInvalid},
		{"unknown media type", `{"mediaType":"application/x-new","layers":[]}`, image.ErrUnsupported},
		{"schema 1 without layers", `{"schemaVersion":1,"fsLayers":[]}`, image.ErrInvalid},
		{"schema 1 and 2 at once", `{"schemaVersion":1,"fsLayers":[],"layers":[]}`, image.ErrInvalid},
		{"schema 1 without history", `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + someDigest + `"}]}`, image.ErrInvalid},
		{"schema 1 with an id that climbs", schema1(`{"id":"../../etc"}`), image.ErrInvalid},
		{"schema 1 with a history that is no JSON", schema1(`x`), image.ErrInvalid},
		{"schema 1 with a gap", schema1(`{"id":"`+someHex+`","parent":"`+otherHex+`"}`, `{"id":"`+strings.Repeat("a", 64)+`"}`), image.ErrInvalid},
		{"too large", strings.Repeat(" ", image.MaxSize) + "{}", image.ErrInvalid},
	} {
		_, err := image.Decode([]byte(c.body))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		} else if strings.Contains(err.Error(), "\n") || len(err.Error()) > 300 {
			t.Errorf("%s: message is not one short line: %q", c.name, err)
		}
	}
	if _, err := image.Decode([]byte("<html><title> Sign in </title>")); err == nil || !strings.Contains(err.Error(), `"Sign in"`) {
		t.Errorf("the page's title is not told: %v", err)
	}
}

func child(platform, mediaType string, annotations map[string]string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(platform + mediaType), Annotations: annotations}
	if platform != "" {
		var p ocispec.Platform
		parts := strings.SplitN(platform, "/", 3)
		p.OS, p.Architecture = parts[0], parts[1]
		if len(parts) > 2 {
			p.Variant = parts[2]
		}
		d.Platform = &p
	}
	return d
}

func TestChoose(t *testing.T) {
	attest := map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	for _, c := range []struct {
		name, want string
		children   []ocispec.Descriptor
		chosen     []int // by place among the children
	}{
		{"the one", "linux/arm64", []ocispec.Descriptor{child("linux/amd64", ociType, nil), child("linux/arm64/v8", ociType, nil)}, []int{1}},
		{"aliases", "linux/x86_64", []ocispec.Descriptor{child("linux/amd64", ociType, nil)}, []int{0}},
		{"best variant first", "linux/arm/v7", []ocispec.Descriptor{child("linux/arm/v5", ociType, nil), child("linux/arm/v7", ociType, nil), child("linux/arm/v6", ociType, nil)}, []int{1, 2, 0}},
		{"newer variants don't run", "linux/arm/v6", []ocispec.Descriptor{child("linux/arm/v7", ociType, nil)}, nil},
		{"no 386 for amd64", "linux/amd64", []ocispec.Descriptor{child("linux/386", ociType, nil)}, nil},
		{"no arm for arm64", "linux/arm64", []ocispec.Descriptor{child("linux/arm/v7", ociType, nil)}, nil},
		{"attestations are passed over", "linux/amd64", []ocispec.Descriptor{child("unknown/unknown", ociType, nil), child("linux/amd64", ociType, attest), child("linux/amd64", ociType, nil)}, []int{2}},
		{"nested after exact", "linux/amd64", []ocispec.Descriptor{child("", ociIndex, nil), child("linux/amd64", ociType, nil), child("linux/arm64", ociIndex, nil)}, []int{1, 0}},
		{"a sole manifest without platform", "linux/amd64", []ocispec.Descriptor{child("", ociType, nil)}, []int{0}},
		{"one of several without platform", "linux/amd64", []ocispec.Descriptor{child("", ociType, nil), child("", image.DockerManifest, nil)}, nil},
		{"the same platform twice: the first", "linux/amd64", []ocispec.Descriptor{child("linux/amd64", ociType, nil), child("linux/amd64", image.DockerManifest, nil)}, []int{0, 1}},
	} {
		p, err := image.ParsePlatform(c.want)
		if err != nil {
			t.Fatal(err)
		}
		var want []ocispec.Descriptor
		for _, i := range c.chosen {
			want = append(want, c.children[i])
		}
		if diff := cmp.Diff(want, image.Choose(&ocispec.Index{Manifests: c.children}, p)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "amd64": "linux/amd64", "x86_64": "linux/amd64", "aarch64": "linux/arm64",
		"arm": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6", "windows/amd64": "windows/amd64", "windows(10.0.17763)/x86_64": "windows(10.0.17763)/amd64", "ppc64le": "linux/ppc64le",
	} {
		p, err := image.ParsePlatform(in)
		if err != nil || p.String() != want || !p.Explicit {
			t.Errorf("ParsePlatform(%q) = %v, %v; want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"", "/", "linux/", "a/b/c/d", "linux/am d64", "*"} {
		if p, err := image.ParsePlatform(in); err == nil {
			t.Errorf("ParsePlatform(%q) = %v, want an error", in, p)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":` + desc + `,"layers":[` + desc + `]}`))
	f.Add([]byte(`{"manifests":[{"digest":"` + someDigest + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`))
	want, err := image.ParsePlatform("linux/amd64")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := image.Decode(raw)
		if err != nil {
			return
		}
		var descs []ocispec.Descriptor
		if doc.Index != nil {
			image.Choose(doc.Index, want)
			image.Platforms(doc.Index)
			descs = doc.Index.Manifests
		} else if doc.Manifest != nil {
			descs = append(doc.Manifest.Layers, doc.Manifest.Config)
		}
		for _, d := range descs {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("Decode let %v pass", d)
			}
		}
		if !json.Valid(doc.Raw) {
			t.Error("Decode let bytes pass that are not JSON")
		}
		_ = fmt.Sprint(doc.Descriptor)
	})
}

func FuzzSchema1(f *testing.F) {
	f.Add([]byte(schema1(`{"id":"` + someHex + `"}`)))
	f.Add([]byte(schema1(`{"id":"`+otherHex+`","parent":"`+someHex+`","throwaway":true}`, `{"id":"`+someHex+`"}`)))
	f.Add([]byte(`{"schemaVersion":1,"signatures":[{"protected":"` + base64.RawURLEncoding.EncodeToString([]byte(`{"formatLength":10,"formatTail":"Cn0"}`)) + `"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if payload := image.Payload(raw); len(payload) > 2*len(raw) {
			t.Errorf("%d bytes became %d", len(raw), len(payload))
		}
		doc, err := image.Decode(raw)
		if err != nil || doc.Schema1 == nil {
			return
		}
		s := doc.Schema1
		if doc.Descriptor.Digest != digest.FromBytes(doc.Raw) {
			t.Error("the digest is not of what is kept")
		}
		for _, l := range s.Layers {
			if len(l.ID) != 64 || strings.Trim(l.ID, "0123456789abcdef") != "" || l.Blob.Validate() != nil {
				t.Errorf("let %q, %q pass", l.ID, l.Blob)
			}
		}
		diffIDs := make([]digest.Digest, len(s.Kept()))
		for i := range diffIDs {
			diffIDs[i] = someDigest
		}
		config, err := s.Config(diffIDs)
		if err != nil {
			return
		}
		if got, err := image.DiffIDs(config); err != nil || len(got) != len(diffIDs) {
			t.Errorf("%s: %v", config, err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["` + someDigest + `"]}}`))
	f.Add([]byte(`{"rootfs":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ids, err := image.DiffIDs(raw)
		for _, d := range ids {
			if d.Validate() != nil {
				t.Errorf("let %q pass", d)
			}
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("more than a line: %q", err)
		}
		if p, err := image.ConfigPlatform(raw); err == nil {
			image.FormatPlatform(p)
		}
	})
}
