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
	"sync"
	"time"

	"drayage/engine/image"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Verdict is how good a finding is for pulling.
type Verdict string

// The verdicts.
const (
	good Verdict = "good"
	note Verdict = "note" // worth knowing; pulls cope with it
	bad  Verdict = "bad"  // costs time, or makes pulls fail
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
	// What pulls can make use of, of the registry: whether it serves ranges of blobs,
	// nil when that wasn't found out, and how long it takes to begin to send one.
	Ranges    *bool         `json:"ranges,omitempty"`
	FirstByte time.Duration `json:"firstByte_ns,omitempty"`
}

// Subject is what is examined.
type Subject struct {
	Ref      reference.Image
	Manifest ocispec.Descriptor // what the image's name stands for
	Blob     ocispec.Descriptor // one of its layers
	// Client makes a client as pulls have it, but for what change changes.
	Client func(change func(*registry.Options)) (*registry.Client, error)
}

// exam is a run of Examine.
type exam struct {
	client *registry.Client
	ref    reference.Image
	blob   ocispec.Descriptor
	make   func(change func(*registry.Options)) (*registry.Client, error)
	report *Report
	store  *url.URL        // where the registry redirects to for the blob, or nil
	tls    *url.URL        // a place that has the blob and offers HTTP/2, or nil
	asked  map[string]bool // hosts that asked to be left alone, which is told once

	mu     sync.Mutex
	tokens []registry.Token
}

func (e *exam) add(name, host string, v Verdict, found, means string) {
	e.report.Findings = append(e.report.Findings, Finding{name, host, v, found, means})
}

// Examine asks a registry about an image.
func Examine(ctx context.Context, x Subject) (*Report, error) {
	e := &exam{ref: x.Ref, blob: x.Blob, make: x.Client, report: &Report{Version: 1, Image: x.Ref.String(), Started: time.Now().UTC()}, asked: make(map[string]bool)}
	var err error
	if e.client, err = x.Client(func(o *registry.Options) { o.Tokens = e.token }); err != nil {
		return nil, err
	}
	defer e.client.Close()
	for _, look := range []func(context.Context) error{
		func(ctx context.Context) error { return e.manifest(ctx, x.Manifest) },
		e.authentication,
		func(ctx context.Context) error { return e.referrers(ctx, x.Manifest.Digest) },
		e.redirect, e.headOfBlob, e.ranges, e.authorization, e.addresses, e.flow, e.proxies,
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

// token is told of a token.
func (e *exam) token(t registry.Token) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tokens = append(e.tokens, t)
}

// drain reads an answer's body, up to some bytes, and closes it. That a host asks to
// be left alone is told, once.
func (e *exam) drain(resp *http.Response, most int64) ([]byte, error) {
	host := resp.Request.URL.Host
	if wait := resp.Header.Get("Retry-After"); wait != "" && !e.asked[host] {
		e.asked[host] = true
		e.add("Retry-After", host, note, fmt.Sprintf("answers %d, Retry-After: %s", resp.StatusCode, printable.Line(wait)), "drayage holds back all requests to it for so long; fewer connections help (--per-host)")
	}
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
	raw, err := e.drain(resp, image.MaxSize)
	if err != nil {
		return err
	}
	raw = image.Payload(raw)
	switch announced := digest.Digest(header.Get("Docker-Content-Digest")); {
	case resp.StatusCode != http.StatusOK:
		e.add("manifest", host, bad, fmt.Sprintf("GET by tag answers %d", resp.StatusCode), "images can't be pulled")
	case announced == "":
		e.add("digest header", host, note, "Docker-Content-Digest is missing", "an unchanged tag costs a GET in place of a HEAD")
	case announced.Validate() != nil || announced.Algorithm().FromBytes(raw) != announced:
		e.add("digest header", host, bad, "Docker-Content-Digest is not the content's", "a cache on the way mixes answers up")
	default:
		e.add("digest header", host, good, "Docker-Content-Digest is right", "")
	}
	if kind, _, _ := strings.Cut(header.Get("Content-Type"), ";"); resp.StatusCode == http.StatusOK {
		if kind == want.MediaType {
			e.add("content type", host, good, kind, "")
		} else {
			e.add("content type", host, note, fmt.Sprintf("%q for a %s", printable.Line(kind), want.MediaType), "drayage goes by the content; other clients may not")
		}
	}
	e.quota(host, header)
	e.clock(host, header, asked)
	resp, err = e.client.Ask(ctx, http.MethodHead, e.ref, "/manifests/"+e.ref.Wanted(), accept())
	if err != nil {
		e.add("HEAD of a manifest", host, note, "fails", "an unchanged tag costs a GET in place of a HEAD")
		return nil
	}
	if _, err := e.drain(resp, 1<<10); err != nil {
		return err
	}
	switch d := resp.Header.Get("Docker-Content-Digest"); {
	case resp.StatusCode != http.StatusOK:
		e.add("HEAD of a manifest", host, note, fmt.Sprintf("answers %d", resp.StatusCode), "an unchanged tag costs a GET in place of a HEAD")
	case d != want.Digest.String():
		e.add("HEAD of a manifest", host, note, "answers without the digest, or with another", "an unchanged tag costs a GET in place of a HEAD")
	default:
		e.add("HEAD of a manifest", host, good, "answers with the digest", "an unchanged image costs one request without a body")
	}
	return nil
}

// quota looks for what the registry says of limits.
func (e *exam) quota(host string, h http.Header) {
	for _, name := range []string{"Ratelimit-Remaining", "Ratelimit-Limit", "X-Ratelimit-Remaining"} {
		if v := h.Get(name); v != "" {
			e.add("quota", host, note, strings.ToLower(name)+": "+printable.Line(v), "manifests fetched by GET count; HEAD and blobs don't, at Docker Hub")
			return
		}
	}
	e.add("quota", host, good, "no rate limit is announced", "")
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
		e.add("clocks", host, good, "agree to within half a minute", "")
		return
	}
	e.add("clocks", host, bad, fmt.Sprintf("the server's clock is %s ahead of this machine's", skew), "signed URLs and tokens may seem to have expired, or never to expire")
}

// authentication looks at how the registry finds out who asks, and at its tokens.
func (e *exam) authentication(ctx context.Context) error {
	host := e.ref.Host()
	resp, err := e.client.Bare(ctx, http.MethodHead, e.ref, "/manifests/"+e.ref.Wanted(), accept())
	if err != nil {
		return err
	}
	if _, err := e.drain(resp, 4<<10); err != nil {
		return err
	}
	schemes, realm := registry.Challenges(resp.Header)
	switch {
	case resp.StatusCode < 400:
		e.add("authentication", host, good, "none is wanted", "")
	case len(schemes) == 0:
		e.add("authentication", host, bad, fmt.Sprintf("answers %d to who has no token, and doesn't say how to get one", resp.StatusCode), "clients without an answer to that fail")
	default:
		at := ""
		if u, err := url.Parse(realm); err == nil && slices.Contains(schemes, "bearer") && u.Host != "" {
			at = ", tokens from " + u.Host
		}
		e.add("authentication", host, good, printable.Line(strings.Join(schemes, ", "))+at, "")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.tokens) == 0 {
		return nil
	}
	t := e.tokens[0]
	const short = time.Minute
	switch {
	case t.Life == 0:
		e.add("life of tokens", t.Host, note, "not stated: a minute, by the specification", "a new one is fetched when it is refused")
	case t.Life < short:
		e.add("life of tokens", t.Host, note, t.Life.String(), "slow pulls fetch many")
	default:
		e.add("life of tokens", t.Host, good, t.Life.String(), "")
	}
	scopes := printable.Line(strings.Join(t.Scopes, " "))
	switch {
	case len(t.Scopes) == 0:
		e.add("scopes", t.Host, good, "aren't named", "")
	case t.Granted != nil && !grants(t.Granted, e.ref.Repository()):
		e.add("scopes", t.Host, bad, fmt.Sprintf("asked for %s, and the token is good for %q", scopes, printable.Line(strings.Join(t.Granted, " "))), "the registry gives tokens that it then refuses: the repository isn't there, or not for these credentials")
	default:
		e.add("scopes", t.Host, good, scopes, "one token a repository")
	}
	return nil
}

// grants reports whether scopes let a repository be pulled from.
func grants(scopes []string, repository string) bool {
	for _, s := range scopes {
		name, actions, _ := cutLast(strings.TrimPrefix(s, "repository:"))
		if name == repository && (strings.Contains(actions, "pull") || actions == "*") {
			return true
		}
	}
	return false
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// referrers looks for the list of what refers to a manifest.
func (e *exam) referrers(ctx context.Context, d digest.Digest) error {
	resp, err := e.client.Ask(ctx, http.MethodGet, e.ref, "/referrers/"+d.String(), http.Header{"Accept": {ocispec.MediaTypeImageIndex}})
	if err != nil {
		e.add("referrers", e.ref.Host(), note, "the list fails", "signatures are looked for by tags, with more requests")
		return nil
	}
	if _, err := e.drain(resp, image.MaxSize); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		e.add("referrers", e.ref.Host(), good, "signatures and the like are listed", "")
	} else {
		e.add("referrers", e.ref.Host(), note, fmt.Sprintf("no list (%d)", resp.StatusCode), "signatures are looked for by tags, with more requests")
	}
	return nil
}

// redirect looks where the registry sends us for a blob.
func (e *exam) redirect(ctx context.Context) error {
	began := time.Now()
	resp, err := e.client.Ask(ctx, http.MethodGet, e.ref, "/blobs/"+e.blob.Digest.String(), http.Header{"Range": {"bytes=0-0"}, "Accept-Encoding": {"identity"}})
	if err != nil {
		return err
	}
	e.report.FirstByte = time.Since(began)
	to, errTo := resp.Location()
	if _, err := e.drain(resp, 4<<10); err != nil {
		return err
	}
	host := e.ref.Host()
	if resp.StatusCode < 300 || resp.StatusCode >= 400 || errTo != nil {
		e.add("blobs", host, good, fmt.Sprintf("the registry sends them itself (%d)", resp.StatusCode), "")
		return nil
	}
	e.store = to
	e.add("blobs", host, good, fmt.Sprintf("redirects (%d) to %s", resp.StatusCode, to.Host), "one more request for each blob; its URL is shared by all connections")
	const short = 2 * time.Minute
	switch until := registry.Expiry(to); {
	case until.IsZero():
		e.add("life of signed URLs", to.Host, note, "not stated", "a URL is used until it stops working")
	case time.Until(until) <= 0:
		e.add("life of signed URLs", to.Host, bad, "has ended already", "a cache keeps redirects, or a clock is wrong")
	case time.Until(until) < short:
		e.add("life of signed URLs", to.Host, note, time.Until(until).Round(time.Second).String(), "slow pulls ask for new ones")
	default:
		e.add("life of signed URLs", to.Host, good, time.Until(until).Round(time.Second).String(), "")
	}
	if e.store.Scheme == "http" {
		e.add("encryption", to.Host, note, "blobs come over plain HTTP", "others can see what is pulled; they can't change it unnoticed")
	}
	return nil
}

// get sends a request for the blob to who has its bytes.
func (e *exam) get(ctx context.Context, method string, header http.Header) (*http.Response, error) {
	return e.getBy(ctx, e.client, method, header)
}

func (e *exam) getBy(ctx context.Context, c *registry.Client, method string, header http.Header) (*http.Response, error) {
	header.Set("Accept-Encoding", "identity")
	if e.store != nil {
		return c.Elsewhere(ctx, method, e.ref, e.store, header)
	}
	return c.Ask(ctx, method, e.ref, "/blobs/"+e.blob.Digest.String(), header)
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
		e.add("HEAD of a blob", e.holder(), note, "fails", "only GET is used")
		return nil
	}
	if _, err := e.drain(resp, 1<<10); err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK && resp.ContentLength == e.blob.Size {
		e.add("HEAD of a blob", e.holder(), good, "answers with the size", "")
	} else {
		e.add("HEAD of a blob", e.holder(), note, fmt.Sprintf("answers %d with %d bytes of %d", resp.StatusCode, resp.ContentLength, e.blob.Size), "URLs are signed for GET only; only GET is used")
	}
	return nil
}

// ranges tries the forms of range requests (RFC 9110, section 14).
func (e *exam) ranges(ctx context.Context) error {
	n := e.blob.Size
	if n < 200 {
		e.add("ranges", e.holder(), note, "not tried: the blob is too small", "")
		return nil
	}
	for _, r := range []struct {
		name, form string
		status     int
		from, to   int64 // of the answer, exclusive
		needed     bool
		means      string
	}{
		{"a closed range", fmt.Sprintf("bytes=%d-%d", n/2, n/2+99), 206, n / 2, n/2 + 100, true, "partial layers start over, and a layer has one connection"},
		{"the last byte", fmt.Sprintf("bytes=%d-%d", n-1, n-1), 206, n - 1, n, true, "partial layers start over"},
		{"an open range", fmt.Sprintf("bytes=%d-", n-100), 206, n - 100, n, false, "drayage uses closed ranges; containerd doesn't"},
		{"a suffix", "bytes=-100", 206, n - 100, n, false, "nobody needs it to pull"},
		{"a range past the end", fmt.Sprintf("bytes=%d-%d", n-50, n+49), 206, n - 50, n, false, "drayage asks for none"},
		{"a range beyond the end", fmt.Sprintf("bytes=%d-", n), 416, 0, 0, false, "drayage asks for none"},
	} {
		resp, err := e.get(ctx, http.MethodGet, http.Header{"Range": {r.form}})
		if err != nil {
			return err
		}
		body, err := e.drain(resp, 1<<10)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		severity := note
		if r.needed {
			severity = bad
			serves := resp.StatusCode == http.StatusPartialContent && (e.report.Ranges == nil || *e.report.Ranges)
			e.report.Ranges = &serves
		}
		want := fmt.Sprintf("bytes %d-%d/%d", r.from, r.to-1, n)
		switch got := resp.Header.Get("Content-Range"); {
		case resp.StatusCode != r.status:
			e.add(r.name, e.holder(), severity, fmt.Sprintf("answers %d in place of %d", resp.StatusCode, r.status), r.means)
		case r.status == http.StatusPartialContent && (got != want || int64(len(body)) != r.to-r.from):
			e.add(r.name, e.holder(), severity, fmt.Sprintf("answers %q with %d bytes, in place of %q", printable.Line(got), len(body), want), r.means)
		default:
			e.add(r.name, e.holder(), good, fmt.Sprintf("answers %d as it should", r.status), "")
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
	if _, err := e.drain(resp, 1<<10); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		e.add("foreign authorization", e.holder(), note, fmt.Sprintf("is refused (%d)", resp.StatusCode), "clients that take their credentials along fail here; drayage never does")
	} else {
		e.add("foreign authorization", e.holder(), good, "is let pass", "drayage sends none")
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

// families compares IPv4 with IPv6: connections, and an answer over each.
func (e *exam) families(ctx context.Context, host, name, port string) {
	var found []string
	verdict, means := good, ""
	for _, network := range []string{"tcp4", "tcp6"} {
		family := "IPv" + network[3:]
		took, err := e.connect(ctx, network, net.JoinHostPort(name, port))
		var dns *net.DNSError
		var addr *net.AddrError
		switch {
		case errors.As(err, &dns), errors.As(err, &addr):
			found = append(found, family+" has no address")
			continue
		case err != nil:
			found = append(found, family+" doesn't connect")
			verdict, means = note, "connections may hang before the other kind is tried"
			continue
		}
		answered, err := e.over(ctx, network, host)
		if err != nil {
			found = append(found, family+" connects and doesn't answer")
			verdict, means = bad, "requests hang or fail as often as this kind is tried first"
			continue
		}
		found = append(found, fmt.Sprintf("%s connects in %s, answers in %s", family, brief(took), brief(answered)))
	}
	e.add("addresses", host, verdict, strings.Join(found, "; "), means)
}

// brief is a time with the digits that matter.
func brief(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// connect makes a connection.
func (e *exam) connect(ctx context.Context, network, address string) (time.Duration, error) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	conn, err := e.client.Dial(ctx, e.ref, network, address)
	if err != nil {
		return 0, err
	}
	return time.Since(began), conn.Close()
}

// over asks a host over one family of addresses: for the blob's first byte where it
// has that, else for the manifest's header. Any answer is one.
func (e *exam) over(ctx context.Context, network, host string) (time.Duration, error) {
	const patience = 15 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := e.make(func(o *registry.Options) { o.Network = network })
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.Follow(e.client, e.ref)
	ask := func() (*http.Response, error) {
		if e.store != nil && host == e.store.Host {
			return c.Elsewhere(ctx, http.MethodGet, e.ref, e.store, http.Header{"Range": {"bytes=0-0"}})
		}
		return c.Ask(ctx, http.MethodHead, e.ref, "/manifests/"+e.ref.Wanted(), accept())
	}
	began := time.Now()
	resp, err := ask()
	if err != nil {
		return 0, err
	}
	_, err = e.drain(resp, 1<<10)
	return time.Since(began), err
}

// certificate looks at the server's certificate, and whether it speaks HTTP/2.
func (e *exam) certificate(ctx context.Context, host, name, port string) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// What is looked at is not trusted: pulls check it.
	raw, err := e.client.Dial(ctx, e.ref, "tcp", net.JoinHostPort(name, port))
	if err != nil {
		e.add("TLS", host, note, "is not spoken", "only with -I, or on this machine")
		return
	}
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, &tls.Config{ServerName: name, NextProtos: []string{"h2", "http/1.1"}, InsecureSkipVerify: true})
	if conn.HandshakeContext(ctx) != nil {
		e.add("TLS", host, note, "is not spoken", "only with -I, or on this machine")
		return
	}
	state := conn.ConnectionState()
	leaf := state.PeerCertificates[0]
	left := time.Until(leaf.NotAfter)
	const soon = 14 * 24 * time.Hour
	verdict, means := good, ""
	if left < soon {
		verdict, means = note, "it is about to expire"
	}
	if left < 0 {
		verdict, means = bad, "it has expired: pulls fail"
	}
	if err := leaf.VerifyHostname(name); err != nil {
		verdict, means = bad, "it is for another name: pulls fail"
	}
	e.add("certificate", host, verdict, fmt.Sprintf("%s, by %s, until %s; a chain of %d", tls.VersionName(state.Version), printable.Line(leaf.Issuer.CommonName), leaf.NotAfter.Format(time.DateOnly), len(state.PeerCertificates)), means)
	if state.NegotiatedProtocol == "h2" {
		e.add("HTTP/2", host, note, "is offered", "all its streams share one connection; drayage uses several of HTTP/1.1")
		if host == e.holder() {
			e.tls = &url.URL{Scheme: "https", Host: host}
		}
	} else {
		e.add("HTTP/2", host, good, "is not offered", "")
	}
}

// flow compares what one connection brings over HTTP/1.1 and over HTTP/2, where the
// server's and the client's flow control bound how much is under way.
func (e *exam) flow(ctx context.Context) error {
	const most, least = 8 << 20, 1 << 20
	if e.tls == nil || e.blob.Size < least || e.report.Ranges == nil || !*e.report.Ranges {
		return nil
	}
	part := min(most, e.blob.Size)
	var rates [2]float64 // over HTTP/1.1, over HTTP/2; the better of two
	for range 2 {
		for i := range rates {
			rate, err := e.read(ctx, part, i == 1)
			if err != nil {
				e.add("one connection", e.holder(), note, "breaks over HTTP/"+[]string{"1.1", "2"}[i], "")
				return nil
			}
			rates[i] = max(rates[i], rate)
		}
	}
	const much = 0.8
	found := fmt.Sprintf("%.1f MB/s over HTTP/1.1, %.1f over HTTP/2", rates[0]/1e6, rates[1]/1e6)
	if rates[1] < much*rates[0] {
		e.add("one connection", e.holder(), note, found, "HTTP/2's flow control holds clients back that use it; drayage doesn't")
	} else {
		e.add("one connection", e.holder(), good, found, "")
	}
	return nil
}

// read reads a part of the blob over a connection of its own, and returns the bytes a
// second from the first one on.
func (e *exam) read(ctx context.Context, part int64, http2 bool) (float64, error) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := e.make(func(o *registry.Options) { o.HTTP2, o.PerHost = http2, 1 })
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.Follow(e.client, e.ref)
	resp, err := e.getBy(ctx, c, http.MethodGet, http.Header{"Range": {fmt.Sprintf("bytes=0-%d", part-1)}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	began := time.Now()
	n, err := io.Copy(io.Discard, io.LimitReader(resp.Body, part))
	if err != nil && n == 0 {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil // of a slow link, what came in time
}

// proxies looks for what stands between.
func (e *exam) proxies(ctx context.Context) error {
	if via, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: e.holder()}}); err == nil && via != nil {
		e.add("proxy", e.holder(), note, "goes through "+via.Host+", by the environment", "what is said of addresses and certificates above is of direct connections")
	}
	resp, err := e.get(ctx, http.MethodGet, http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return err
	}
	if _, err := e.drain(resp, 1<<10); err != nil {
		return err
	}
	var found []string
	for _, name := range []string{"Via", "X-Cache", "Cf-Cache-Status", "X-Served-By", "Age", "Server"} {
		if v := resp.Header.Get(name); v != "" {
			found = append(found, strings.ToLower(name)+": "+printable.Line(v))
		}
	}
	slices.Sort(found)
	if len(found) == 0 {
		found = []string{"none that identifies itself"}
	}
	e.add("caches and proxies", e.holder(), good, strings.Join(found, ", "), "")
	return nil
}
