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

	"drayage/blobstore/durable"
	"drayage/engine/textfile"
)

// serverOf is what a registry is called in Docker's config.json and to helpers.
func serverOf(registry string) string {
	if registry == hub {
		return hubServer
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
		return "", false, &Error{Where: "config.json", Err: errors.New("no home directory; set DOCKER_CONFIG to a directory")}
	}
	doc, err := openDocument(path)
	if err != nil {
		return "", false, &Error{Where: path, Err: err}
	}
	server, keys := serverOf(registry), keysOf(registry, "")
	if name, _ := doc.parsed.helper(keys); name != "" {
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
		for key := range auths { // an older login by another spelling would be found before
			if slices.Contains(keys, normalKey(key)) {
				delete(auths, key)
			}
		}
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
// where Store puts them. It says from where, or "" when there were none. fault is what failed
// beside, when nothing is left of it that counts: a helper that isn't there keeps nothing.
func Remove(ctx context.Context, registry string) (where string, fault, err error) {
	path := dockerConfig()
	if path == "" {
		return "", nil, nil
	}
	doc, err := openDocument(path)
	if err != nil {
		return "", nil, &Error{Where: path, Err: err}
	}
	keys := keysOf(registry, "")
	// Whatever a helper does, nothing stays in the file.
	inFile, err := doc.remove(keys)
	if err != nil {
		return "", nil, &Error{Where: path, Err: err}
	}
	if inFile {
		where = path
	}
	name, _ := doc.parsed.helper(keys)
	if name == "" {
		return where, nil, nil
	}
	erased, err := eraseAll(ctx, name, registry)
	switch {
	case err != nil && inFile && errors.Is(err, errNoProgram):
		return where, &Error{Where: helperProgram(name), Err: err}, nil
	case err != nil:
		return "", nil, &Error{Where: helperProgram(name), Err: err}
	case erased && !inFile:
		where = helperProgram(name)
	}
	return where, nil, nil
}

// remove removes the entries of keys, if there are some.
func (d *document) remove(keys []string) (found bool, err error) {
	for key := range d.auths {
		found = found || slices.Contains(keys, normalKey(key))
	}
	if !found {
		return false, nil
	}
	return true, d.change(func(auths map[string]json.RawMessage) error {
		for key := range auths {
			if slices.Contains(keys, normalKey(key)) {
				delete(auths, key)
			}
		}
		return nil
	})
}

// eraseAll has a helper forget a registry under all names that it may have for it. That it
// doesn't have one of them is no failure.
func eraseAll(ctx context.Context, name, registry string) (erased bool, err error) {
	servers := []string{registry}
	if registry == hub {
		servers = append([]string{hubServer}, hubKeys...)
	}
	for _, server := range servers {
		c, err := runHelper(ctx, storeDeadline, name, server)
		if err == nil && !c.usable() {
			continue // it has none under that name
		}
		_, err = callHelper(ctx, storeDeadline, name, "erase", server, c.secrets()...)
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
	real, err := durable.Follow(path)
	if err != nil {
		return nil, bare(err)
	}
	d := &document{path: real, top: make(map[string]json.RawMessage), auths: make(map[string]json.RawMessage), parsed: new(file)}
	raw, err := readPlace(real)
	if absent(err) {
		return d, nil
	}
	if err != nil {
		return nil, bare(err)
	}
	if d.info, err = os.Stat(real); err != nil {
		return nil, bare(err)
	}
	if !d.info.Mode().IsRegular() { // os.DevNull reads as an empty file, and is not to become one
		return nil, durable.ErrNotPlain
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return d, nil
	}
	text, err := textfile.Decode(raw)
	if err != nil {
		return nil, err
	}
	if d.parsed, err = parseText(text); err != nil {
		return nil, err
	}
	if d.top, err = fieldsOrNone(text); err != nil {
		return nil, err
	}
	if !hasAny(d.top, formKeys...) {
		d.modernize()
	}
	if auths := d.top["auths"]; len(auths) > 0 {
		if d.auths, err = fieldsOrNone(auths); err != nil {
			return nil, fmt.Errorf("auths: %w", err)
		}
	}
	return d, nil
}

// fieldsOrNone is fields of an object that is to be changed: null is one without any.
func fieldsOrNone(raw []byte) (map[string]json.RawMessage, error) {
	out, err := fields(raw)
	if out == nil {
		out = make(map[string]json.RawMessage)
	}
	return out, err
}

// modernize makes entries of auths of those that the oldest form has at the top, since they
// count no more as soon as there are auths.
func (d *document) modernize() {
	for key, raw := range d.top {
		var e entry
		if json.Unmarshal(raw, &e) != nil {
			continue
		}
		if c, err := e.credential(); err != nil || c.usable() {
			d.auths[key] = raw
			delete(d.top, key)
		}
	}
}

// change writes the file anew, in one step where that can be, with its mode and owner as they were.
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
	raw = append(raw, '\n')
	err = d.replace(raw)
	if d.info != nil && (errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EROFS)) {
		err = d.overwrite(raw) // it is mounted, as into a container
	}
	if err != nil {
		return fmt.Errorf("writing the file: %w", err)
	}
	return nil
}

// overwrite writes what can't be replaced.
func (d *document) overwrite(raw []byte) error {
	f, err := os.OpenFile(d.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return bare(err)
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Sync(), f.Close())
}

// replace puts a new file in the place of the old one.
func (d *document) replace(raw []byte) error {
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
	_, err = beside.Write(raw)
	err = errors.Join(err, beside.Chmod(mode), beside.Sync(), beside.Close())
	if err == nil {
		err = os.Rename(beside.Name(), d.path)
	}
	if err != nil {
		return errors.Join(bare(err), os.Remove(beside.Name()))
	}
	return nil
}
