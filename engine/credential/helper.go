package credential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"drayage/engine/internal/limits"
	"drayage/engine/printable"
)

// A credential helper is a program that keeps credentials, by the protocol of
// docker-credential-helpers: docker-credential-NAME get, with the registry on its standard
// input, and JSON or words on its standard output.

type helperKey struct{ name, server string }

// answer is what a helper said, or is about to say.
type answer struct {
	done chan struct{} // closed when it has
	at   time.Time
	c    Credential
	err  error
}

func (a *answer) over() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// answersFor is how long a helper's answer is used: some spend a cloud's quota with each, and
// what they hand out runs out after minutes.
const answersFor = 5 * time.Minute

// ask asks a helper for a registry's credentials, once for all who want them. None are the
// zero Credential.
func (s *Set) ask(ctx context.Context, name, server string) (Credential, error) {
	key := helperKey{name, server}
	for {
		s.mu.Lock()
		a := s.helpers[key]
		first := a == nil || a.over() && time.Since(a.at) > answersFor
		if first {
			a = &answer{done: make(chan struct{}), at: time.Now()}
			s.helpers[key] = a
		}
		deadline := s.options.Deadline
		s.mu.Unlock()
		if first {
			a.c, a.err = runHelper(ctx, deadline, name, server)
			if ctx.Err() != nil { // whoever waits asks for itself
				s.mu.Lock()
				delete(s.helpers, key)
				s.mu.Unlock()
			}
			a.at = time.Now()
			close(a.done)
			return a.c, a.err
		}
		select {
		case <-a.done:
			if !errors.Is(a.err, errCancelled) {
				return a.c, a.err
			}
		case <-ctx.Done():
			return Credential{}, context.Cause(ctx)
		}
	}
}

var errCancelled = errors.New("the request was cancelled")

func helperProgram(name string) string { return "docker-credential-" + printable.Line(name) }

// helperName is what may follow docker-credential-: no path.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// runHelper gets credentials from a helper. It says that it has none in words.
func runHelper(ctx context.Context, deadline time.Duration, name, server string) (Credential, error) {
	out, err := callHelper(ctx, deadline, name, "get", server)
	if err != nil {
		if none(err) {
			return Credential{}, nil
		}
		return Credential{}, err
	}
	var found struct{ Username, Secret string }
	if err := json.Unmarshal(out, &found); err != nil {
		return Credential{}, errors.New("its response is not JSON")
	}
	if found.Username == "<token>" {
		return Credential{Identity: found.Secret}, nil
	}
	return Credential{User: found.Username, Password: found.Secret}, nil
}

// helperError is what a helper said when it failed.
type helperError struct{ words string }

func (e *helperError) Error() string {
	if e.words == "" {
		return "it failed without a word"
	}
	return "it failed: " + printable.Line(e.words)
}

// none reports whether a helper's failure says that it has nothing for that registry.
func none(err error) bool {
	var failed *helperError
	if !errors.As(err, &failed) {
		return false
	}
	words := strings.ToLower(failed.words)
	return strings.Contains(words, "credentials not found") || strings.Contains(words, "not found in native keychain") ||
		strings.Contains(words, "could not be found in the keychain")
}

// callHelper runs one command of a helper. It is ended, with all that it has started, when
// ctx is done or the deadline has come. Of what it says when it fails secrets are kept out.
func callHelper(ctx context.Context, deadline time.Duration, name, verb, input string, secrets ...string) ([]byte, error) {
	if !helperName.MatchString(name) {
		return nil, errors.New("invalid credential helper name")
	}
	program, err := exec.LookPath(helperProgram(name))
	if err != nil {
		return nil, errNoProgram
	}
	inner, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	const most = limits.HelperBytes
	var out, words capped
	out.most, words.most = most, most
	cmd := exec.CommandContext(inner, program, verb)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &words
	ownGroup(cmd)
	cmd.WaitDelay = time.Second // what it has started may hold its output open
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, errors.Join(errCancelled, context.Cause(ctx))
	case inner.Err() != nil:
		return nil, fmt.Errorf("no response within %v; it may be waiting for a prompt or a locked keychain", deadline.Round(time.Millisecond))
	case errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		// It has ended well; what it has started, an agent perhaps, goes on.
	case err != nil:
		said := strings.TrimSpace(out.kept.String())
		if said == "" {
			said = strings.TrimSpace(words.kept.String())
		}
		return nil, &helperError{withoutSecrets(said, input, secrets)}
	}
	return out.kept.Bytes(), nil
}

// errNoProgram says that a helper isn't installed.
var errNoProgram = errors.New("program not found in PATH")

// withoutSecrets is what a helper said as it may be shown: not if that is an answer, which may
// hold a secret in part or in a form of its own, and nothing of what it was given to store or
// of what it is known to have.
func withoutSecrets(said, input string, secrets []string) string {
	if strings.ContainsAny(said, "{}") {
		return ""
	}
	var known printable.Secrets
	known.Add(secrets...)
	var given struct{ Secret string }
	if json.Unmarshal([]byte(input), &given) == nil {
		known.Add(given.Secret)
	}
	return known.Hide(said)
}

// capped keeps the beginning of what is written to it. Its buffer is no part of its face: that
// could be read into past the cap.
type capped struct {
	kept bytes.Buffer
	most int
}

func (c *capped) Write(p []byte) (int, error) {
	c.kept.Write(p[:min(len(p), max(0, c.most-c.kept.Len()))])
	return len(p), nil
}
