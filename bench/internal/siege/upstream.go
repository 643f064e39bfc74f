package siege

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	times    = 1000     // that a thing is listed in another
	huge     = 1 << 40  // bytes that a blob is said to have
	large    = 64 << 20 // bytes that a blob has
	slow     = 100 * time.Millisecond
	fullSize = 4 << 20 // bytes of a manifest
)

// Upstream is a registry that does to who asks it what it can. Its repositories are what attacks
// ask for.
func Upstream() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/wide/{kind}/{of}", func(w http.ResponseWriter, r *http.Request) {
		switch of := r.PathValue("of"); {
		case of == layer().Digest.String():
			send(w, r, "application/octet-stream", layerBytes())
		case of == wideManifest().Digest.String():
			send(w, r, ocispec.MediaTypeImageManifest, wideManifestBytes())
		case of == "latest":
			send(w, r, ocispec.MediaTypeImageIndex, wideIndex())
		default:
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("GET /v2/sizes/manifests/latest", func(w http.ResponseWriter, r *http.Request) {
		send(w, r, ocispec.MediaTypeImageManifest, wrongSizes())
	})
	mux.HandleFunc("GET /v2/nested/manifests/{of}", nested)
	mux.HandleFunc("GET /v2/slow/blobs/{of}", func(w http.ResponseWriter, r *http.Request) {
		if raw, ok := freshBytes(r.PathValue("of")); ok { // as it should be, but slowly
			drip(w, r, int64(len(raw)), raw)
			return
		}
		http.NotFound(w, r)
	})
	mux.HandleFunc("GET /v2/huge/blobs/{of}", func(w http.ResponseWriter, r *http.Request) { drip(w, r, huge, nil) })
	mux.HandleFunc("GET /v2/redirects/{n}/{kind}/{of}", redirect)
	mux.HandleFunc("GET /v2/large/blobs/{of}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(large))
		if r.Method == http.MethodHead {
			return
		}
		junk := make([]byte, 64<<10)
		for range large / len(junk) {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /v2/tags/tags/list", func(w http.ResponseWriter, r *http.Request) {
		const many = 12_000_000
		_, _ = w.Write([]byte(`{"tags":["a"` + strings.Repeat(`,"a"`, many) + `]}`)) // the mirror has gone, if not
	})
	mux.HandleFunc("GET /v2/pages/tags/list", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`</v2/pages/tags/list?last=%sx>; rel="next"`, r.FormValue("last")))
		_, _ = w.Write([]byte(`{"tags":[]}`))
	})
	mux.HandleFunc("GET /v2/values/{n}/manifests/latest", func(w http.ResponseWriter, r *http.Request) {
		send(w, r, ocispec.MediaTypeImageManifest, values(r.PathValue("n")))
	})
	mux.HandleFunc("GET /v2/drops/{n}/manifests/latest", func(w http.ResponseWriter, r *http.Request) { drip(w, r, fullSize, nil) })
	return mux
}

// redirect leads on and on, elsewhere where nothing is, or to what isn't HTTP.
func redirect(w http.ResponseWriter, r *http.Request) {
	n := r.PathValue("n")
	to := []string{
		r.URL.Path + "?again=" + strconv.Itoa(len(r.FormValue("again"))),
		r.URL.Path + "?again=" + r.FormValue("again") + "x",
		"http://127.0.0.1:1/" + n,
		"file:///etc/passwd",
		"//127.0.0.1:1/" + strings.Repeat("x", 10_000),
	}
	of := 0
	for _, c := range n {
		of += int(c)
	}
	w.Header().Set("Location", to[of%len(to)])
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// Fresh blobs are those that honest clients ask for, and that a store doesn't have yet.
const (
	fresh     = 100
	freshSize = 1 << 20 // bytes
)

// Fresh are the descriptors of fresh blobs.
func Fresh() []ocispec.Descriptor {
	out := make([]ocispec.Descriptor, 0, fresh)
	for n := range uint64(fresh) {
		out = append(out, describe(ocispec.MediaTypeImageLayer, freshContent(n)))
	}
	return out
}

// freshContent is the content of a fresh blob.
func freshContent(n uint64) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], n)
	raw := make([]byte, freshSize)
	_, _ = rand.NewChaCha8(seed).Read(raw) // never fails
	return raw
}

// numbers are those of fresh blobs, by their digests.
var numbers = sync.OnceValue(func() map[digest.Digest]uint64 {
	out := make(map[digest.Digest]uint64)
	for n, d := range Fresh() {
		out[d.Digest] = uint64(n)
	}
	return out
})

func freshBytes(of string) ([]byte, bool) {
	n, ok := numbers()[digest.Digest(of)]
	if !ok {
		return nil, false
	}
	return freshContent(n), true
}

// Good is a registry that has the fresh blobs, in the repository fresh.
func Good() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/fresh/blobs/{of}", func(w http.ResponseWriter, r *http.Request) {
		if raw, ok := freshBytes(r.PathValue("of")); ok {
			send(w, r, "application/octet-stream", raw)
			return
		}
		http.NotFound(w, r)
	})
	return mux
}

// send sends a whole.
func send(w http.ResponseWriter, r *http.Request, mediaType string, raw []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(raw).String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
}

// drip sends size bytes, one now and then: those of raw, if it isn't nil.
func drip(w http.ResponseWriter, r *http.Request, size int64, raw []byte) {
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method == http.MethodHead {
		return
	}
	out := http.NewResponseController(w)
	tick := time.NewTicker(slow)
	defer tick.Stop()
	for i := range size {
		one := []byte{'{'}
		if raw != nil {
			one = raw[i : i+1]
		}
		if _, err := w.Write(one); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// madeUp is the digest of nothing that there is.
func madeUp(n int) digest.Digest { return digest.FromString(fmt.Sprint("made up ", n)) }

func layerBytes() []byte { return bytes.Repeat([]byte("layer"), 200<<10/5) }

func layer() ocispec.Descriptor { return describe(ocispec.MediaTypeImageLayer, layerBytes()) }

func describe(mediaType string, raw []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
}

func repeated(d ocispec.Descriptor, n int) []ocispec.Descriptor {
	out := make([]ocispec.Descriptor, n)
	for i := range out {
		out[i] = d
	}
	return out
}

func wideManifestBytes() []byte {
	return marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(ocispec.MediaTypeImageConfig, []byte("{}")), Layers: repeated(layer(), times)})
}

func wideManifest() ocispec.Descriptor {
	return describe(ocispec.MediaTypeImageManifest, wideManifestBytes())
}

func wideIndex() []byte {
	return marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: repeated(wideManifest(), times)})
}

// wrongSizes is a manifest that has one layer under many sizes.
func wrongSizes() []byte {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(ocispec.MediaTypeImageConfig, []byte("{}")), Layers: repeated(layer(), times)}
	for i := range m.Layers {
		m.Layers[i].Size += int64(i)
	}
	return marshal(m)
}

// values is a manifest of as many values as fit.
func values(seed string) []byte {
	unit := []string{`{}`, `[]`, `{"urls":[""]}`, `{"annotations":{"a":""}}`}[len(seed)%4]
	head, tail := `{"schemaVersion":2,"annotations":{"seed":"`+seed+`"},"config":{},"layers":[`, `]}`
	n := (fullSize - len(head) - len(tail)) / (len(unit) + 1)
	return []byte(head + strings.Repeat(unit+",", n-1) + unit + tail)
}

// nested gives indexes that each list another, without end.
func nested(w http.ResponseWriter, r *http.Request) {
	const deep = 100
	below := describe(ocispec.MediaTypeImageManifest, []byte("{}"))
	for i := range deep {
		raw := marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
			Manifests: []ocispec.Descriptor{below}, Annotations: map[string]string{"depth": strconv.Itoa(i)}})
		below = describe(ocispec.MediaTypeImageIndex, raw)
		if of := r.PathValue("of"); of == below.Digest.String() || of == "latest" && i == deep-1 {
			send(w, r, ocispec.MediaTypeImageIndex, raw)
			return
		}
	}
	http.NotFound(w, r)
}

func marshal(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // a fault of this package
	}
	return raw
}
