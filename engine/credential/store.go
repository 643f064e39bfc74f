package credential

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"drayage/engine/textfile"
)

// serverOf is what a registry is called in Docker's config.json and to helpers.
func serverOf(registry string) string {
	if registry == hub {
		return HubServer
	}
	return registry
}

// storeDeadline is how long a helper may take to store or remove: a person may have to unlock
// something.
const storeDeadline = 2 * time.Minute

// Store stores a name and password for a registry where docker login does, with the helper
// that Docker's config.json names or in that file, and says where. plain reports that it is a
// file that anybody can read who can read the user's files.
func Store(ctx context.Context, registry, user, password string) (where string, plain bool, err error) {
	path := dockerConfig()
	if path == "" {
		return "", false, &Error{Where: "config.json", Err: errors.New("there is no home folder; set DOCKER_CONFIG to one")}
	}
	doc, err := openDocument(path)
	if err != nil {
		return "", false, &Error{Where: path, Err: err}
	}
	server := serverOf(registry)
	if name, _ := doc.parsed.helper(keysOf(registry, "")); name != "" {
		input, err := json.Marshal(map[string]string{"ServerURL": server, "Username": user, "Secret": password})
		if err != nil {
			return "", false, err
		}
		if _, err := callHelper(ctx, storeDeadline, name, "store", string(input)); err != nil {
			return "", false, &Error{Where: helperProgram(name), Err: err}
		}
		return helperProgram(name), false, nil
	}
	err = doc.change(func(auths map[string]json.RawMessage) error {
		e, err := json.Marshal(map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))})
		auths[server] = e
		return err
	})
	if err != nil {
		return "", false, &Error{Where: path, Err: err}
	}
	return path, true, nil
}

// Remove removes a registry's credentials, under every spelling that a lookup would find, from
// where Store puts them. It says from where, or "" when there were none.
func Remove(ctx context.Context, registry string) (where string, err error) {
	path := dockerConfig()
	if path == "" {
		return "", nil
	}
	doc, err := openDocument(path)
	if err != nil {
		return "", &Error{Where: path, Err: err}
	}
	keys := keysOf(registry, "")
	if name, _ := doc.parsed.helper(keys); name != "" {
		erased, err := eraseAll(ctx, name, registry)
		if err != nil {
			return "", &Error{Where: helperProgram(name), Err: err}
		}
		if erased {
			where = helperProgram(name)
		}
	}
	found := false
	for key := range doc.auths {
		found = found || slices.Contains(keys, normalKey(key))
	}
	if !found {
		return where, nil
	}
	err = doc.change(func(auths map[string]json.RawMessage) error {
		for key := range auths {
			if slices.Contains(keys, normalKey(key)) {
				delete(auths, key)
			}
		}
		return nil
	})
	if err != nil {
		return "", &Error{Where: path, Err: err}
	}
	return path, nil
}

// eraseAll has a helper forget a registry under all names that it may have for it. That it
// doesn't have one of them is no failure.
func eraseAll(ctx context.Context, name, registry string) (erased bool, err error) {
	servers := []string{registry}
	if registry == hub {
		servers = append([]string{HubServer}, hubKeys...)
	}
	for _, server := range servers {
		c, err := runHelper(ctx, storeDeadline, name, server)
		if err == nil && !c.usable() {
			continue // it has none under that name
		}
		_, err = callHelper(ctx, storeDeadline, name, "erase", server)
		var failed *helperError
		switch {
		case err == nil:
			erased = true
		case errors.As(err, &failed): // pass and osxkeychain fail when there is nothing to erase
			if c, errGet := runHelper(ctx, storeDeadline, name, server); errGet == nil && c.usable() {
				return erased, err // it is there still
			}
		default:
			return erased, err
		}
	}
	return erased, nil
}

// document is a config.json that is changed, with all that others have written there.
type document struct {
	path   string // where it really is, behind links
	top    map[string]json.RawMessage
	auths  map[string]json.RawMessage
	parsed *file
	info   fs.FileInfo // nil for one that isn't there yet
}

func openDocument(path string) (*document, error) {
	real, err := behindLinks(path)
	if err != nil {
		return nil, err
	}
	d := &document{path: real, top: make(map[string]json.RawMessage), auths: make(map[string]json.RawMessage), parsed: new(file)}
	raw, err := readFile(real)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return nil, bare(err)
	}
	if d.info, err = os.Stat(real); err != nil {
		return nil, bare(err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return d, nil
	}
	if d.parsed, err = parseFile(raw); err != nil {
		return nil, err
	}
	text, err := textfile.Decode(raw)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &d.top); err != nil {
		return nil, jsonError(text, err)
	}
	if auths := d.top["auths"]; len(auths) > 0 {
		if err := json.Unmarshal(auths, &d.auths); err != nil {
			return nil, errors.New("its auths is not an object")
		}
	}
	if d.auths == nil { // "auths": null
		d.auths = make(map[string]json.RawMessage)
	}
	return d, nil
}

// behindLinks is where a file is, or will be, that may be a symbolic link, a dangling one
// included.
func behindLinks(path string) (string, error) {
	const most = 40 // as the kernel has it
	for range most {
		to, err := os.Readlink(path)
		if err != nil {
			return path, nil // it is no link, or not there
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = to
	}
	return "", syscall.ELOOP
}

// change writes the file anew, in one step, with its mode and owner as they were.
func (d *document) change(f func(auths map[string]json.RawMessage) error) error {
	if err := f(d.auths); err != nil {
		return err
	}
	auths, err := json.Marshal(d.auths)
	if err != nil {
		return err
	}
	d.top["auths"] = auths
	raw, err := json.MarshalIndent(d.top, "", "\t")
	if err != nil {
		return err
	}
	const private, privateDir = 0o600, 0o700
	if err := os.MkdirAll(filepath.Dir(d.path), privateDir); err != nil {
		return bare(err)
	}
	beside, err := os.CreateTemp(filepath.Dir(d.path), ".config.json-*")
	if err != nil {
		return bare(err)
	}
	mode := fs.FileMode(private)
	if d.info != nil {
		mode = d.info.Mode().Perm()
		keepOwner(beside, d.info) // what can't be kept is as whoever logs in has it
	}
	_, err = beside.Write(append(raw, '\n'))
	err = errors.Join(err, beside.Chmod(mode), beside.Sync(), beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), d.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing it: %w", bare(err)), os.Remove(beside.Name()))
	}
	return nil
}
