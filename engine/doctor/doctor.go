// Package doctor finds out what a registry, and the storage behind it, really do
// with the requests that a pull makes: what specifications leave open, and where
// some go beyond them. It asks for manifests and small parts of one blob.
package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"drayage/engine/image"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Verdict is how good a finding is for pulling.
type Verdict string

// The verdicts.
const (
	Good Verdict = "good"
	Note Verdict = "note" // worth knowing; pulls cope with it
	Bad  Verdict = "bad"  // costs time, or makes pulls fail
)

// Finding is one thing that was found out. It has no secret in it.
type Finding struct {
	Name    string  `json:"name"`
	Host    string  `json:"host,omitempty"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	Means   string  `json:"means,omitempty"` // for pulling
}

// Report is what was found out about one image's registry.
type Report struct {
	Version  int       `json:"version"` // 1
	Image    string    `json:"image"`
	Started  time.Time `json:"started"`
	Findings []Finding `json:"findings"`
}

// exam is a run of Examine.
type exam struct {
	client *registry.Client
	ref    reference.Image
	blob   ocispec.Descriptor
	report *Report
	store  *url.URL // where the registry redirects to for the blob, or nil
}

func (e *exam) add(name, host string, v Verdict, found, means string) {
	e.report.Findings = append(e.report.Findings, Finding{name, host, v, found, means})
}

// Examine asks a registry about an image. manifest is what the image's name stands
// for, and blob one of its layers.
func Examine(ctx context.Context, c *registry.Client, ref reference.Image, manifest ocispec.Descriptor, blob ocispec.Descriptor) (*Report, error) {
	e := &exam{client: c, ref: ref, blob: blob, report: &Report{Version: 1, Image: ref.String(), Started: time.Now().UTC()}}
	for _, look := range []func(context.Context) error{
		func(ctx context.Context) error { return e.manifest(ctx, manifest) },
		func(ctx context.Context) error { return e.referrers(ctx, manifest.Digest) },
		e.redirect, e.headOfBlob, e.ranges, e.authorization, e.addresses, e.proxies,
	} {
		if err := look(ctx); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return e.report, nil
}

// drain reads an answer's body, up to some bytes, and closes it.
func drain(resp *http.Response, most int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, most))
	return raw, errors.Join(err, resp.Body.Close())
}

func accept() http.Header {
	return http.Header{"Accept": {strings.Join(image.MediaTypes(), ", ")}}
}

// manifest looks at how the manifest is served.
func (e *exam) manifest(ctx context.Context, want ocispec.Descriptor) error {
	host := e.ref.Host()
	asked := time.Now()
	resp, err := e.client.Ask(ctx, http.MethodGet, e.ref, "/manifests/"+e.ref.Wanted(), accept())
	if err != nil {
		return err
	}
	header := resp.Header
	raw, err := drain(resp, image.MaxSize)
	if err != nil {
		return err
	}
	raw = image.Payload(raw)
	switch announced := digest.Digest(header.Get("Docker-Content-Digest")); {
	case resp.StatusCode != http.StatusOK:
		e.add("manifest", host, Bad, fmt.Sprintf("GET by tag answers %d", resp.StatusCode), "images can't be pulled")
	case announced == "":
		e.add("digest header", host, Note, "Docker-Content-Digest is missing", "an unchanged tag costs a GET in place of a HEAD")
	case announced.Validate() != nil || announced.Algorithm().FromBytes(raw) != announced:
		e.add("digest header", host, Bad, "Docker-Content-Digest is not the content's", "a cache on the way mixes answers up")
	default:
		e.add("digest header", host, Good, "Docker-Content-Digest is right", "")
	}
	if kind, _, _ := strings.Cut(header.Get("Content-Type"), ";"); resp.StatusCode == http.StatusOK {
		if kind == want.MediaType {
			e.add("content type", host, Good, kind, "")
		} else {
			e.add("content type", host, Note, fmt.Sprintf("%q for a %s", image.Printable(kind), want.MediaType), "drayage goes by the content; other clients may not")
		}
	}
	e.quota(host, header)
	e.clock(host, header, asked)
	resp, err = e.client.Ask(ctx, http.MethodHead, e.ref, "/manifests/"+e.ref.Wanted(), accept())
	if err != nil {
		e.add("HEAD of a manifest", host, Note, "fails", "an unchanged tag costs a GET in place of a HEAD")
		return nil
	}
	if _, err := drain(resp, 1<<10); err != nil {
		return err
	}
	switch d := resp.Header.Get("Docker-Content-Digest"); {
	case resp.StatusCode != http.StatusOK:
		e.add("HEAD of a manifest", host, Note, fmt.Sprintf("answers %d", resp.StatusCode), "an unchanged tag costs a GET in place of a HEAD")
	case d != want.Digest.String():
		e.add("HEAD of a manifest", host, Note, "answers without the digest, or with another", "an unchanged tag costs a GET in place of a HEAD")
	default:
		e.add("HEAD of a manifest", host, Good, "answers with the digest", "an unchanged image costs one request without a body")
	}
	return nil
}

// quota looks for what the registry says of limits.
func (e *exam) quota(host string, h http.Header) {
	for _, name := range []string{"Ratelimit-Remaining", "Ratelimit-Limit", "X-Ratelimit-Remaining"} {
		if v := h.Get(name); v != "" {
			e.add("quota", host, Note, strings.ToLower(name)+": "+image.Printable(v), "manifests fetched by GET count; HEAD and blobs don't, at Docker Hub")
			return
		}
	}
	e.add("quota", host, Good, "no rate limit is announced", "")
}

// clock compares the server's clock with this machine's: signed URLs and tokens
// have times in them.
func (e *exam) clock(host string, h http.Header, asked time.Time) {
	at, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	const fine = 30 * time.Second
	skew := at.Sub(asked.Add(time.Since(asked) / 2)).Round(time.Second)
	if skew.Abs() <= fine {
		e.add("clocks", host, Good, "agree to within half a minute", "")
		return
	}
	e.add("clocks", host, Bad, fmt.Sprintf("the server's clock is %s ahead of this machine's", skew), "signed URLs and tokens may seem to have expired, or never to expire")
}

// referrers looks for the list of what refers to a manifest.
func (e *exam) referrers(ctx context.Context, d digest.Digest) error {
	resp, err := e.client.Ask(ctx, http.MethodGet, e.ref, "/referrers/"+d.String(), http.Header{"Accept": {ocispec.MediaTypeImageIndex}})
	if err != nil {
		e.add("referrers", e.ref.Host(), Note, "the list fails", "signatures are looked for by tags, with more requests")
		return nil
	}
	if _, err := drain(resp, image.MaxSize); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		e.add("referrers", e.ref.Host(), Good, "signatures and the like are listed", "")
	} else {
		e.add("referrers", e.ref.Host(), Note, fmt.Sprintf("no list (%d)", resp.StatusCode), "signatures are looked for by tags, with more requests")
	}
	return nil
}

// redirect looks where the registry sends us for a blob.
func (e *exam) redirect(ctx context.Context) error {
	resp, err := e.client.Ask(ctx, http.MethodGet, e.ref, "/blobs/"+e.blob.Digest.String(), http.Header{"Range": {"bytes=0-0"}, "Accept-Encoding": {"identity"}})
	if err != nil {
		return err
	}
	to, errTo := resp.Location()
	if _, err := drain(resp, 4<<10); err != nil {
		return err
	}
	host := e.ref.Host()
	if resp.StatusCode < 300 || resp.StatusCode >= 400 || errTo != nil {
		e.add("blobs", host, Good, fmt.Sprintf("the registry sends them itself (%d)", resp.StatusCode), "")
		return nil
	}
	e.store = to
	e.add("blobs", host, Good, fmt.Sprintf("redirects (%d) to %s", resp.StatusCode, to.Host), "one more request for each blob; its URL is shared by all connections")
	const short = 2 * time.Minute
	switch until := registry.Expiry(to); {
	case until.IsZero():
		e.add("life of signed URLs", to.Host, Note, "isn't told", "a URL is used until it stops working")
	case time.Until(until) <= 0:
		e.add("life of signed URLs", to.Host, Bad, "has ended already", "a cache keeps redirects, or a clock is wrong")
	case time.Until(until) < short:
		e.add("life of signed URLs", to.Host, Note, time.Until(until).Round(time.Second).String(), "slow pulls ask for new ones")
	default:
		e.add("life of signed URLs", to.Host, Good, time.Until(until).Round(time.Second).String(), "")
	}
	if e.store.Scheme == "http" {
		e.add("encryption", to.Host, Note, "blobs come over plain HTTP", "others can see what is pulled; they can't change it unnoticed")
	}
	return nil
}

// get sends a request for the blob to who has its bytes.
func (e *exam) get(ctx context.Context, method string, header http.Header) (*http.Response, error) {
	header.Set("Accept-Encoding", "identity")
	if e.store != nil {
		return e.client.Elsewhere(ctx, method, e.store, header)
	}
	return e.client.Ask(ctx, method, e.ref, "/blobs/"+e.blob.Digest.String(), header)
}

func (e *exam) holder() string {
	if e.store != nil {
		return e.store.Host
	}
	return e.ref.Host()
}

// headOfBlob looks whether a blob's size can be asked for.
func (e *exam) headOfBlob(ctx context.Context) error {
	resp, err := e.get(ctx, http.MethodHead, http.Header{})
	if err != nil {
		e.add("HEAD of a blob", e.holder(), Note, "fails", "only GET is used")
		return nil
	}
	if _, err := drain(resp, 1<<10); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK && resp.ContentLength == e.blob.Size {
		e.add("HEAD of a blob", e.holder(), Good, "answers with the size", "")
	} else {
		e.add("HEAD of a blob", e.holder(), Note, fmt.Sprintf("answers %d with %d bytes of %d", resp.StatusCode, resp.ContentLength, e.blob.Size), "URLs are signed for GET only; only GET is used")
	}
	return nil
}

// ranges tries the forms of range requests (RFC 9110, section 14).
func (e *exam) ranges(ctx context.Context) error {
	n := e.blob.Size
	if n < 200 {
		e.add("ranges", e.holder(), Note, "not tried: the blob is too small", "")
		return nil
	}
	for _, r := range []struct {
		name, form string
		status     int
		from, to   int64 // of the answer, exclusive
		needed     bool
		means      string
	}{
		{"a closed range", fmt.Sprintf("bytes=%d-%d", n/2, n/2+99), 206, n / 2, n/2 + 100, true, "half-fetched layers start over, and a layer has one connection"},
		{"the last byte", fmt.Sprintf("bytes=%d-%d", n-1, n-1), 206, n - 1, n, true, "half-fetched layers start over"},
		{"an open range", fmt.Sprintf("bytes=%d-", n-100), 206, n - 100, n, false, "drayage uses closed ranges; containerd doesn't"},
		{"a suffix", "bytes=-100", 206, n - 100, n, false, "nobody needs it to pull"},
		{"a range past the end", fmt.Sprintf("bytes=%d-%d", n-50, n+49), 206, n - 50, n, false, "drayage asks for none"},
		{"a range beyond the end", fmt.Sprintf("bytes=%d-", n), 416, 0, 0, false, "drayage asks for none"},
	} {
		resp, err := e.get(ctx, http.MethodGet, http.Header{"Range": {r.form}})
		if err != nil {
			return err
		}
		body, err := drain(resp, 1<<10)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		bad := Note
		if r.needed {
			bad = Bad
		}
		want := fmt.Sprintf("bytes %d-%d/%d", r.from, r.to-1, n)
		switch got := resp.Header.Get("Content-Range"); {
		case resp.StatusCode != r.status:
			e.add(r.name, e.holder(), bad, fmt.Sprintf("answers %d in place of %d", resp.StatusCode, r.status), r.means)
		case r.status == http.StatusPartialContent && (got != want || int64(len(body)) != r.to-r.from):
			e.add(r.name, e.holder(), bad, fmt.Sprintf("answers %q with %d bytes, in place of %q", image.Printable(got), len(body), want), r.means)
		default:
			e.add(r.name, e.holder(), Good, fmt.Sprintf("answers %d as it should", r.status), "")
		}
	}
	return nil
}

// authorization looks whether the storage host minds a header that is not for it.
func (e *exam) authorization(ctx context.Context) error {
	if e.store == nil {
		return nil
	}
	resp, err := e.get(ctx, http.MethodGet, http.Header{"Range": {"bytes=0-0"}, "Authorization": {"Bearer not-for-you"}})
	if err != nil {
		return err
	}
	if _, err := drain(resp, 1<<10); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		e.add("foreign authorization", e.holder(), Note, fmt.Sprintf("is refused (%d)", resp.StatusCode), "clients that take their credentials along fail here; drayage never does")
	} else {
		e.add("foreign authorization", e.holder(), Good, "is let pass", "drayage sends none")
	}
	return nil
}

// addresses looks at how the hosts are reached: addresses of both kinds, the
// certificate, HTTP/2.
func (e *exam) addresses(ctx context.Context) error {
	hosts := []string{e.ref.Host()}
	if e.store != nil && e.store.Host != e.ref.Host() {
		hosts = append(hosts, e.store.Host)
	}
	for _, host := range hosts {
		name, port, err := net.SplitHostPort(host)
		if err != nil {
			name, port = host, "443"
		}
		e.families(ctx, host, name, port)
		e.certificate(ctx, host, name, port)
	}
	return nil
}

// families compares connections over IPv4 and IPv6.
func (e *exam) families(ctx context.Context, host, name, port string) {
	var found []string
	verdict, means := Good, ""
	for _, network := range []string{"tcp4", "tcp6"} {
		const patience = 5 * time.Second
		ctx, cancel := context.WithTimeout(ctx, patience)
		began := time.Now()
		conn, err := new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(name, port))
		cancel()
		family := "IPv" + network[3:]
		var dns *net.DNSError
		var addr *net.AddrError
		switch {
		case err == nil:
			conn.Close()
			found = append(found, fmt.Sprintf("%s in %s", family, time.Since(began).Round(100*time.Microsecond)))
		case errors.As(err, &dns), errors.As(err, &addr):
			found = append(found, family+" has no address")
		default:
			found = append(found, family+" doesn't connect")
			verdict, means = Note, "connections may hang before the other kind is tried"
		}
	}
	e.add("addresses", host, verdict, strings.Join(found, ", "), means)
}

// certificate looks at the server's certificate, and whether it speaks HTTP/2.
func (e *exam) certificate(ctx context.Context, host, name, port string) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// What is looked at is not trusted: pulls check it.
	d := tls.Dialer{Config: &tls.Config{ServerName: name, NextProtos: []string{"h2", "http/1.1"}, InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(name, port))
	if err != nil {
		e.add("TLS", host, Note, "is not spoken", "only with -I, or on this machine")
		return
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	leaf := state.PeerCertificates[0]
	left := time.Until(leaf.NotAfter)
	const soon = 14 * 24 * time.Hour
	verdict, means := Good, ""
	if left < soon {
		verdict, means = Note, "it is about to expire"
	}
	if left < 0 {
		verdict, means = Bad, "it has expired: pulls fail"
	}
	if err := leaf.VerifyHostname(name); err != nil {
		verdict, means = Bad, "it is for another name: pulls fail"
	}
	e.add("certificate", host, verdict, fmt.Sprintf("%s, by %s, until %s; a chain of %d", tls.VersionName(state.Version), image.Printable(leaf.Issuer.CommonName), leaf.NotAfter.Format(time.DateOnly), len(state.PeerCertificates)), means)
	if state.NegotiatedProtocol == "h2" {
		e.add("HTTP/2", host, Note, "is offered", "all its streams share one connection; drayage uses several of HTTP/1.1")
	} else {
		e.add("HTTP/2", host, Good, "is not offered", "")
	}
}

// proxies looks for what stands between.
func (e *exam) proxies(ctx context.Context) error {
	resp, err := e.get(ctx, http.MethodGet, http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return err
	}
	if _, err := drain(resp, 1<<10); err != nil {
		return err
	}
	var found []string
	for _, name := range []string{"Via", "X-Cache", "Cf-Cache-Status", "X-Served-By", "Age", "Server"} {
		if v := resp.Header.Get(name); v != "" {
			found = append(found, strings.ToLower(name)+": "+image.Printable(v))
		}
	}
	slices.Sort(found)
	if len(found) == 0 {
		found = []string{"none that tells of itself"}
	}
	e.add("caches and proxies", e.holder(), Good, strings.Join(found, ", "), "")
	return nil
}
