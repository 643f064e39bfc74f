package warmer

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"drayage/cmd/drayage/internal/build"
	"drayage/cmd/drayage/internal/warm"
	"drayage/engine/printable"
)

// Tell implements warm.Work.
func (w *Engine) Tell(ctx context.Context, h warm.Hook, e warm.Event) error {
	const patience = time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if h.URL != "" {
		return post(ctx, h.URL, raw)
	}
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Stdin = bytes.NewReader(raw)
	cmd.WaitDelay = time.Second // its children may still run, and hold its output
	ownGroup(cmd)
	var out headAndTail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "DRAYAGE_EVENT="+e.Event, "DRAYAGE_GROUP="+e.Group, "DRAYAGE_IMAGE="+e.Image, "DRAYAGE_DIGEST="+e.Digest)
	switch err := cmd.Run(); {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: not finished within %s: %s", h.Command[0], patience, w.hookOutput(&out))
	default:
		return fmt.Errorf("%s: %w: %s", h.Command[0], err, w.hookOutput(&out))
	}
}

// hookOutput is the beginning and end of what a failed hook has written, each in one line and
// without secrets, for the log.
func (w *Engine) hookOutput(out *headAndTail) string {
	head, tail := out.parts()
	line := hookSecrets(w.Net.Auth).Line
	if tail == "" {
		return line(head)
	}
	return line(head) + " … " + line(tail)
}

func post(ctx context.Context, url string, raw []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return errors.New("the url is malformed") // it may have a secret
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "drayage/"+build.Version())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("POST to %s: %w", req.URL.Host, errors.Unwrap(err))
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("POST to %s: HTTP status %s", req.URL.Host, printable.Line(resp.Status))
	}
	return nil
}

var (
	secretName  = regexp.MustCompile(`(?i)(auth|passw|token|secret|credential|api_?key)`)
	secretField = regexp.MustCompile(`"(?:auth|password|secret|identitytoken|registrytoken)"\s*:\s*"([^"]+)"`)
)

// hookSecrets are the secrets of this process that a hook may know, and print: those in environment
// variables, passwords of proxies, and the credentials of -a.
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

// headAndTail is a writer that keeps the beginning and the end of what is written: the reason of a
// failure is mostly in one of them.
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
