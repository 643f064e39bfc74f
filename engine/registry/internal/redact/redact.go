// Package redact takes out of URLs, errors of net/http and headers what may be secret in them: users,
// queries with their signatures, fragments, and what a server sent that can't be read. It shows
// only what is known to be harmless, and knows no secrets by their value: what remains has to go
// through printable.Secrets before somebody sees it.
package redact

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"drayage/engine/printable"
)

// URL is a URL without what may be secret in it: query, fragment, user.
func URL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// shown are the headers whose values may be shown, but for what bareURLs hides. All others may hold
// secrets: credentials, cookies, the signatures in Location.
var shown = []string{
	"Accept", "Accept-Encoding", "Accept-Ranges", "Age", "Cache-Control", "Connection", "Content-Encoding",
	"Content-Length", "Content-Range", "Content-Type", "Date", "Docker-Content-Digest",
	"Docker-Distribution-Api-Version", "Etag", "Last-Modified", "Range", "Ratelimit-Limit",
	"Ratelimit-Remaining", "Retry-After", "Server", "User-Agent", "Vary", "Via", "Www-Authenticate", "X-Cache",
}

// urls is a header's value with what may be secret in URLs hidden, as URL has it: in each
// quoted string, and in each word outside of them, what stands before an @, and behind a question
// mark or the # of a fragment.
func urls(value string) string {
	var b strings.Builder
	quoted := false
	for value != "" {
		end := endOfWord(value, quoted)
		b.WriteString(bare(value[:end]))
		if end < len(value) {
			quoted = quoted != (value[end] == '"')
			b.WriteByte(value[end])
			end++
		}
		value = value[end:]
	}
	return b.String()
}

// endOfWord is where a word ends, or the quoted string (RFC 9110, section 5.6.4) in which it begins.
func endOfWord(s string, quoted bool) int {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"', !quoted && (c == ' ' || c == '\t'):
			return i
		case quoted && c == '\\':
			i++
		}
	}
	return len(s)
}

func bare(word string) string {
	ends := "?"
	if strings.Contains(word, "/") { // else it may be the name of a language
		ends = "?#"
	}
	if i := strings.IndexAny(word, ends); i >= 0 && i+1 < len(word) {
		word = word[:i+1] + printable.Hidden
	}
	if at := strings.LastIndexByte(word, '@'); at > 0 {
		scheme := 0
		if i := strings.Index(word[:at], "//"); i >= 0 {
			scheme = i + len("//")
		}
		word = word[:scheme] + printable.Hidden + word[at:]
	}
	return word
}

// Header is a header as it may be shown, with secrets hidden.
func Header(h http.Header, secrets *printable.Secrets) map[string][]string {
	out := make(map[string][]string, len(h))
	for k, values := range h {
		name := printable.Line(k)
		for _, v := range values {
			text := printable.Hidden
			switch u, err := url.Parse(v); {
			case slices.Contains(shown, k):
				text = secrets.Line(urls(v))
			case k == "Location" && err == nil:
				text = secrets.Line(URL(u))
			}
			out[name] = append(out[name], text)
		}
	}
	return out
}

// Error names an error of net/http without what may be secret in it: its URLs have their
// query, and with it the signature; and headers and status lines that it can't read, which may
// be anything.
func Error(err error) string {
	for {
		var u *url.Error
		if !errors.As(err, &u) {
			break
		}
		err = u.Err
	}
	text := err.Error()
	for _, quoting := range []string{
		"malformed MIME header", "malformed HTTP response", "malformed HTTP status code", "malformed HTTP version",
		"malformed HTTP header", "bad Content-Length", "unsupported transfer encoding", "invalid header field",
		"failed to parse Location header", "malformed chunked encoding", "invalid byte in chunk length", "too many transfer encodings",
	} {
		if i := strings.Index(text, quoting); i >= 0 {
			text = text[:i+len(quoting)]
			break
		}
	}
	return text
}
