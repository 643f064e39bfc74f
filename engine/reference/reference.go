// Package reference turns what people type for an image into a complete name.
//
// The grammar is Docker's, by the distribution/reference module; the defaults
// are Docker's too: registry docker.io, repository prefix library/, tag latest.
package reference

import (
	"fmt"
	"strconv"
	"strings"

	"drayage/engine/fault"

	_ "crypto/sha256" // the digest algorithms that a reference may name
	_ "crypto/sha512"
	dref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// ErrInvalid is the error that Parse wraps for a name that is none.
var ErrInvalid = fault.New(fault.Usage, "not an image name")

const (
	hubDomain = "docker.io"
	hubHost   = "registry-1.docker.io"
)

// Image is the complete name of an image: registry, repository, and a tag, a
// digest or both. Only Parse makes one; the zero value names nothing. Images
// are comparable: equal values name the same thing.
type Image struct {
	domain string
	path   string
	tag    string
	digest digest.Digest
}

// Parse reads an image's name as docker and its relatives do. With neither tag
// nor digest the tag is latest. The error wraps ErrInvalid and is one line.
func Parse(s string) (Image, error) {
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		return Image{}, fmt.Errorf("%q: %w: leave out %s://, names have no scheme", s, ErrInvalid, escaped(scheme))
	}
	named, err := dref.ParseNormalizedNamed(normalHub(s))
	if err != nil {
		return Image{}, fmt.Errorf("%q: %w: %s", s, ErrInvalid, reason(err))
	}
	img := Image{domain: dref.Domain(named), path: dref.Path(named)}
	if t, ok := named.(dref.Tagged); ok {
		img.tag = t.Tag()
	}
	if d, ok := named.(dref.Digested); ok {
		img.digest = d.Digest()
		if err := img.digest.Validate(); err != nil {
			return Image{}, fmt.Errorf("%q: %w: %s", s, ErrInvalid, reason(err))
		}
	}
	if _, port, ok := strings.Cut(img.domain[strings.LastIndexByte(img.domain, ']')+1:], ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return Image{}, fmt.Errorf("%q: %w: there is no port %s", s, ErrInvalid, port)
		}
	}
	if img.tag == "" && img.digest == "" {
		img.tag = "latest"
	}
	return img, nil
}

// normalHub is a name in which Docker Hub goes by its own name: its API's host stands in names,
// too, as in Helm's.
func normalHub(s string) string {
	if rest, ok := strings.CutPrefix(s, hubHost+"/"); ok {
		return hubDomain + "/" + rest
	}
	return s
}

// reason is the part of a grammar error that tells something beyond "invalid".
func reason(err error) string {
	return escaped(strings.TrimPrefix(err.Error(), "invalid reference format: "))
}

// escaped is a text whose characters can all be printed: names come from lists and registries, too.
func escaped(s string) string {
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// String is the name as docker shows it: without docker.io and library/, with
// the tag and the digest that were given.
func (i Image) String() string { return i.suffixed(i.familiar()) }

// Name is the whole name, registry and all: what the store files it under.
func (i Image) Name() string { return i.suffixed(i.domain + "/" + i.path) }

// Registry is the registry as it stands in a name: docker.io, ghcr.io,
// 127.0.0.1:5000.
func (i Image) Registry() string { return i.domain }

// Host is the name and port that answer for the registry. It differs from
// Registry for Docker Hub alone.
func (i Image) Host() string {
	if i.domain == hubDomain {
		return hubHost
	}
	return i.domain
}

// Repository is the name's path within its registry, such as library/alpine.
func (i Image) Repository() string { return i.path }

// Tag is the tag, or "" for an image named by digest alone.
func (i Image) Tag() string { return i.tag }

// Digest is the digest, or "" for an image named by tag alone.
func (i Image) Digest() digest.Digest { return i.digest }

// Wanted is what to ask the registry for: the digest where there is one, since
// then the tag only names, else the tag.
func (i Image) Wanted() string {
	if i.digest != "" {
		return i.digest.String()
	}
	return i.tag
}

// Tagged is the whole name with its tag and without its digest, or "" when
// there is no tag.
func (i Image) Tagged() string {
	if i.tag == "" {
		return ""
	}
	return i.domain + "/" + i.path + ":" + i.tag
}

// RepoTag is the name an archive gives the image: docker.io/library/x:t is x:t,
// docker.io/a/x:t is a/x:t, others keep their registry. It is "" when there is
// no tag.
func (i Image) RepoTag() string {
	if i.tag == "" {
		return ""
	}
	return i.familiar() + ":" + i.tag
}

// WithoutRegistry is the image under its name without the registry's host, as
// if it came from Docker Hub: reg.example.com/team/app:1 becomes team/app:1.
func (i Image) WithoutRegistry() Image {
	i.domain = hubDomain
	if !strings.Contains(i.path, "/") {
		i.path = "library/" + i.path
	}
	return i
}

// At is the image with a digest, which from then on decides what is fetched.
func (i Image) At(d digest.Digest) Image {
	i.digest = d
	return i
}

func (i Image) familiar() string {
	if i.domain != hubDomain {
		return i.domain + "/" + i.path
	}
	if short, ok := strings.CutPrefix(i.path, "library/"); ok && !strings.Contains(short, "/") {
		return short
	}
	return i.path
}

func (i Image) suffixed(name string) string {
	if i.tag != "" {
		name += ":" + i.tag
	}
	if i.digest != "" {
		name += "@" + i.digest.String()
	}
	return name
}
