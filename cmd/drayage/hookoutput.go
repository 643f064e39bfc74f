package main

import (
	"encoding/base64"
	"net/url"
	"os"
	"regexp"
	"strings"

	"drayage/engine/printable"
)

var (
	secretName  = regexp.MustCompile(`(?i)(auth|passw|token|secret|credential|api_?key)`)
	secretField = regexp.MustCompile(`"(?:auth|password|secret|identitytoken|registrytoken)"\s*:\s*"([^"]+)"`)
)

// hookSecrets are what a hook may have of secrets from this process, and may write: what the
// environment has under names of such things, passwords of proxies, and what -a gives as auth.
func hookSecrets(auth string) *printable.Secrets {
	var known printable.Secrets
	add := func(text string) {
		_, password, _ := strings.Cut(text, ":")
		known.Add(text, password)
	}
	add(auth)
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if u, err := url.Parse(value); err == nil && u.User != nil {
			password, _ := u.User.Password()
			known.Add(password)
		}
		if secretName.MatchString(name) && !strings.HasPrefix(value, "/") { // a path is where one is
			add(value)
			for _, field := range secretField.FindAllStringSubmatch(value, -1) {
				add(field[1])
				if plain, err := base64.StdEncoding.DecodeString(field[1]); err == nil {
					add(string(plain))
				}
			}
		}
	}
	return &known
}

// headAndTail is a writer that keeps the beginning and the end of what is written, whatever is
// written: what went wrong is mostly told in one of them.
type headAndTail struct {
	head, tail []byte // tail is a ring once it is full
	next       int
}

// keptOfOutput is how many bytes are kept of each end, of which a log gets less.
const keptOfOutput = 4 << 10

// Write implements io.Writer. It takes everything.
func (h *headAndTail) Write(p []byte) (int, error) {
	n := len(p)
	take := min(len(p), keptOfOutput-len(h.head))
	h.head = append(h.head, p[:take]...)
	p = p[take:]
	p = p[max(0, len(p)-keptOfOutput):]
	for _, b := range p {
		if len(h.tail) < keptOfOutput {
			h.tail = append(h.tail, b)
			continue
		}
		h.tail[h.next] = b
		h.next = (h.next + 1) % keptOfOutput
	}
	return n, nil
}

// parts are the beginning and, when there was more, the last lines.
func (h *headAndTail) parts() (head, tail string) {
	const last = 200 // bytes, as much as a line of a log has
	end := string(h.tail[h.next:]) + string(h.tail[:h.next])
	return string(h.head), end[max(0, len(end)-last):]
}
