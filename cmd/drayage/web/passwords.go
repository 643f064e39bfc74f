package web

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"drayage/engine/textfile"

	"golang.org/x/crypto/bcrypt"
)

// Passwords are those of a file as htpasswd -B writes it, a user:hash a line, with hashes
// by bcrypt alone. The file is read again when it has changed.
type Passwords struct {
	path  string
	tries chan struct{} // one for each hash that may be worked out at once

	mu     sync.Mutex
	looked time.Time // when the file was last looked at
	age    time.Time // of what was read
	hashes map[string][]byte
	good   map[[sha256.Size]byte]bool // user and password that were right
	fault  error                      // of the latest reading; then nobody is let in
}

// Fault is why nobody is let in, nil when the file can be read.
func (p *Passwords) Fault() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// ReadPasswords reads a file.
func ReadPasswords(path string) (*Passwords, error) {
	p := &Passwords{path: path, tries: make(chan struct{}, runtime.GOMAXPROCS(0))}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p, p.read()
}

// read reads the file. The caller holds p.mu.
func (p *Passwords) read() error {
	p.looked = time.Now()
	info, err := os.Stat(p.path)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(p.age) {
		return nil
	}
	const most = 16 << 20
	text, err := textfile.Read(p.path, most)
	if err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	hashes := make(map[string][]byte)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return fmt.Errorf("%s, line %d: want user:hash", p.path, n)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			return fmt.Errorf("%s, line %d: the hash is not by bcrypt, as htpasswd -B makes it", p.path, n)
		}
		hashes[user] = []byte(hash)
	}
	if len(hashes) == 0 {
		return errors.New(p.path + " has no users")
	}
	p.hashes, p.age, p.good = hashes, info.ModTime(), make(map[[sha256.Size]byte]bool)
	return nil
}

// Check reports who sends a request, and whether the password is right.
func (p *Passwords) Check(r *http.Request) (user string, ok bool) {
	user, password, given := r.BasicAuth()
	if !given {
		return "", false
	}
	sum := sha256.Sum256([]byte(user + "\x00" + password))
	const often = 5 * time.Second
	p.mu.Lock()
	if time.Since(p.looked) > often {
		if p.fault = p.read(); p.fault != nil { // nobody is let in who may have been removed
			p.hashes, p.good, p.age = nil, make(map[[sha256.Size]byte]bool), time.Time{}
		}
	}
	hash, known := p.hashes[user]
	if !known { // somebody's is tried all the same, so that it takes as long
		for _, hash = range p.hashes {
			break
		}
	}
	good := p.good[sum]
	age := p.age
	p.mu.Unlock()
	if good {
		return user, true
	}
	p.tries <- struct{}{}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	<-p.tries
	if err != nil || !known {
		return user, false
	}
	const most = 1000
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.good) >= most {
		clear(p.good)
	}
	if p.age.Equal(age) {
		p.good[sum] = true
	}
	return user, true
}
