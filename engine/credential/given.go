package credential

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"drayage/blobstore/durable"
	"drayage/engine/textfile"
)

// limited reads no more than a file may have, also of one that grows, or of a pipe.
type limited struct {
	io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, textfile.ErrTooLarge
	}
	n, err := l.Reader.Read(p)
	l.left -= int64(n)
	return n, err
}

// Given reads credentials as a user gives them: env:VAR, file:PATH, or the credentials
// themselves. These are user:password, in base64 or plainly, or JSON as Docker's config.json
// has it, which may serve many registries. What is nothing of that is refused, and not shown.
func Given(s string) (*Set, error) {
	where, raw := "the command line", []byte(s)
	if name, ok := strings.CutPrefix(s, "env:"); ok {
		where = "the environment variable " + name
		raw = []byte(os.Getenv(name))
		if len(raw) == 0 {
			return nil, &Error{Where: where, Err: errors.New("not set")}
		}
	} else if path, ok := strings.CutPrefix(s, "file:"); ok {
		where = path
		var err error
		if raw, err = readFile(durable.OpenNamed(path)); err != nil {
			return nil, &Error{Where: where, Err: bare(err)}
		}
	}
	set, err := parseGiven(where, raw)
	if err != nil {
		return nil, &Error{Where: where, Err: err}
	}
	return set, nil
}

func parseGiven(where string, raw []byte) (*Set, error) {
	text, err := textfile.Decode(raw)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimSpace(text)
	if bytes.HasPrefix(text, []byte("{")) {
		return givenStore(where, text)
	}
	if c, ok := plain(string(text)); ok {
		return oneFor(where, c), nil
	}
	if decoded, err := decodeBase64(string(bytes.Join(bytes.Fields(text), nil))); err == nil {
		decoded = bytes.TrimRight(decoded, "\r\n\x00")
		if store := bytes.TrimSpace(decoded); bytes.HasPrefix(store, []byte("{")) {
			return givenStore(where, store) // a Kubernetes secret, as kubectl shows it
		}
		if c, ok := plain(string(decoded)); ok {
			return oneFor(where, c), nil
		}
	}
	if f, ok := firstYears(string(text)); ok {
		return oneFor(where, f), nil
	}
	return nil, fmt.Errorf("%w: expected user:password, plain or in base64, or JSON as in Docker's config.json", errNone)
}

// givenStore is JSON that was given.
func givenStore(where string, text []byte) (*Set, error) {
	f, err := parseFile(text)
	if err != nil {
		return nil, err
	}
	if f.empty() {
		return nil, errNone
	}
	s := newSet(func() ([]source, []*Error) { return []source{{where: where, file: f}}, nil })
	s.given = where
	return s, nil
}

// plain reads user:password. What looks like a file of another kind, or has more than one
// line, is none: it would be sent to the registry whole.
func plain(s string) (Credential, bool) {
	user, password, ok := strings.Cut(s, ":")
	if !ok || user == "" || password == "" || hasControl(s) || strings.ContainsAny(user[:1], "{[<#\"'/%-") ||
		strings.IndexFunc(user, unicode.IsSpace) >= 0 || unicode.IsSpace(rune(password[0])) {
		return Credential{}, false
	}
	return Credential{User: user, Password: password}, true
}

// firstYears reads the form of .dockercfg before JSON: lines "auth = …" and "email = …".
func firstYears(s string) (Credential, bool) {
	for line := range strings.Lines(s) {
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(key) != "auth" {
			continue
		}
		user, password, err := decodeAuth(strings.TrimSpace(value))
		if err == nil && password != "" {
			return Credential{User: user, Password: password}, true
		}
	}
	return Credential{}, false
}
