// Package notice tells users of what is odd with hosts, each thing once, and passes on the warnings
// that registries send (OCI distribution spec, "Warnings").
package notice

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"drayage/engine/event"
	"drayage/engine/printable"
	"drayage/engine/registry/internal/wire"
)

// Notices pass warnings on. They may be used from several goroutines.
type Notices struct {
	observer event.Observer
	secrets  *printable.Secrets

	mu       sync.Mutex
	given    map[string]bool // what was warned of
	warnings map[string]int  // how many of each host's own were passed on
}

// New makes Notices for an observer. Secrets are hidden in what hosts say.
func New(observer event.Observer, secrets *printable.Secrets) *Notices {
	return &Notices{observer: observer, secrets: secrets, given: make(map[string]bool), warnings: make(map[string]int)}
}

// OnceFor warns unless a warning with the same key was given.
func (n *Notices) OnceFor(key, message string) {
	n.mu.Lock()
	again := n.given[key]
	n.given[key] = true
	n.mu.Unlock()
	if !again {
		n.observer.Observe(event.Warned{Message: message})
	}
}

// PassOn shows a registry's warnings to the user, as the distribution spec asks of clients
// ("Warnings"): each text once, of those with the code 299.
func (n *Notices) PassOn(resp *http.Response) {
	const most = 50 // of one answer
	count := 0
	for _, value := range resp.Header.Values("Warning") {
		for ; strings.Trim(value, " \t,") != "" && count < most; count++ {
			var code, text string
			code, text, value = wire.CutWarning(value)
			if text = n.secrets.Line(text); code == "299" && text != "" {
				n.passOnText(resp.Request.URL.Host, text)
			}
		}
	}
}

// passOnText shows one warning of a host, unless there were too many of it.
func (n *Notices) passOnText(host, text string) {
	const most = 20 // different ones of a host, in a run
	message := fmt.Sprintf("message from %s: %s", host, text)
	n.mu.Lock()
	switch {
	case n.given[message]:
	case n.warnings[host] >= most:
		message = "further messages from " + host + " are not shown"
	default:
		n.warnings[host]++
	}
	n.mu.Unlock()
	n.Once(message)
}

// Once warns of something odd, unless it has done so.
func (n *Notices) Once(message string) {
	const most = 1000
	n.mu.Lock()
	again := n.given[message] || len(n.given) >= most
	if !again {
		n.given[message] = true
	}
	n.mu.Unlock()
	if !again {
		n.observer.Observe(event.Warned{Message: message})
	}
}
