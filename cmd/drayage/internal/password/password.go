// Package password checks the logins of requests against a file of htpasswd.
package password

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/process"
	"drayage/engine/cpulimit"
	"drayage/engine/textfile"

	"golang.org/x/crypto/bcrypt"
)

// Passwords are those of a file as htpasswd -B writes it, a user:hash a line, with hashes by
// bcrypt alone. Watch reads the file again every few seconds: who is no longer in it is refused
// then, and so is everybody when it can't be read or is broken, until it is whole again. Nobody
// else reads it: a file system that doesn't answer holds up no request.
//
// Guessing is slow, and costs little: an address has some wrong passwords, then one every few
// seconds, and beyond that is refused before anything is worked out, but for passwords that were
// found to be right. Checks wait for their turn, those of all addresses fairly, for some seconds.
// What is asked for by many at once is worked out once.
type Passwords struct {
	path  string
	work  *cpulimit.Limit
	turns *checks
	read  func(path string, old *users) (*users, error) // readUsers, but for tests

	mu     sync.Mutex
	looked time.Time // when the latest reading that has ended began
	users  *users    // as of that; nil when it failed
	fault  error     // of it
	whole  *users    // the latest that the file had when it was whole
}

// users are what a file says, and what was found out by it.
type users struct {
	sum    [sha256.Size]byte // of the file
	hashes map[string]string
	dummy  string // a hash that is tried for users that aren't there, so that it takes as long

	mu     sync.Mutex
	good   map[string][sha256.Size]byte   // what was found to be right, by users
	bad    map[[sha256.Size]byte]struct{} // what was found to be wrong
	checks map[[sha256.Size]byte]*check
}

// check is one that is worked out, for all who wait for it.
type check struct {
	done chan struct{}
	err  error
}

// Errors of Check.
var (
	ErrPassword = errors.New("authentication required")
	ErrNoLogin  = fmt.Errorf("%w: the request has no login", ErrPassword)
	ErrGuesses  = errors.New("too many wrong passwords from this address")
	ErrBusy     = errors.New("too many passwords are being checked")
)

// WaitError is an error that passes.
type WaitError struct {
	error
	Wait time.Duration
}

// Unwrap is why the client has to wait.
func (w WaitError) Unwrap() error { return w.error }

// What passwords may cost.
const (
	// mostCost is the largest bcrypt cost of a hash: at 15, a check takes some two seconds.
	mostCost = 15
	// mostPassword is how many bytes of a password bcrypt reads.
	mostPassword = 72
	// An address may be wrong so often at once, and then once in so long.
	wrongAtOnce = 20
	wrongEvery  = 2 * time.Second
	// So many networks are known that were wrong lately.
	mostWrong = 20_000
	// So many wrong passwords are remembered.
	mostBad = 1000
)

// The file is looked at so often, and when it is broken, so often. What it said counts for no longer
// than mostOld, so that who is removed from it is refused within ten seconds whatever the file system does.
const (
	lookOften  = 4 * time.Second
	lookBroken = time.Second
	mostOld    = 8 * time.Second
)

// Read reads a file, which is then Watch's. Hashes are worked out by turns of work; nil is
// work of their own.
func Read(path string, work *cpulimit.Limit) (*Passwords, error) {
	if work == nil {
		work = cpulimit.New()
	}
	p := &Passwords{path: path, work: work, read: readUsers, turns: newChecks(work.Places(), client.NewBuckets(1/wrongEvery.Seconds(), wrongAtOnce, mostWrong))}
	return p, p.look()
}

// Watch looks after the file until ctx is done, and tells when it breaks and when it is whole
// again. Nobody is let in for long without it.
func (p *Passwords) Watch(ctx context.Context, tell func(string)) {
	broken := false
	process.Poll(ctx, p.due, func() { _ = p.look() }, func() {
		switch err := p.Fault(); {
		case err != nil && !broken:
			tell("the password file can't be used, and nobody is let in: " + err.Error())
			broken = true
		case err == nil && broken:
			tell("the password file " + p.path + " can be used again")
			broken = false
		}
	})
}

// due reports whether the file is to be looked at again.
func (p *Passwords) due() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	often := lookOften
	if p.fault != nil {
		often = lookBroken
	}
	return time.Since(p.looked) >= often
}

// look reads the file.
func (p *Passwords) look() error {
	p.mu.Lock()
	old := p.whole
	p.mu.Unlock()
	began := time.Now()
	u, err := p.read(p.path, old)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users, p.fault, p.looked = u, err, began
	if u != nil {
		p.whole = u
	}
	return err
}

// Fault is why nobody is let in, nil when the file can be read.
func (p *Passwords) Fault() error {
	_, err := p.current()
	return err
}

// current is what the file says.
func (p *Passwords) current() (*users, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == nil && time.Since(p.looked) > mostOld {
		return nil, fmt.Errorf("%s: not read for more than %s: its file system doesn't answer", p.path, mostOld)
	}
	return p.users, p.fault
}

// readUsers reads a file. What it says is that of old when it is the same. All of it is read every
// time: no date, size or number of a file says for sure that it is what it was.
func readUsers(path string, old *users) (*users, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := durable.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if old != nil {
		sum := sha256.New()
		if _, err := io.CopyN(sum, f, limits.PasswordBytes+1); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if bytes.Equal(sum.Sum(nil), old.sum[:]) {
			return old, nil
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
	}
	u, err := parseUsers(path, f)
	if err != nil || old == nil {
		return u, err
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	for user, sum := range old.good { // whose hash is what it was needn't be checked anew
		if u.hashes[user] == old.hashes[user] {
			u.good[user] = sum
		}
	}
	return u, nil
}

// parseUsers reads what a file has.
func parseUsers(path string, in io.Reader) (*users, error) {
	sum := sha256.New()
	u := &users{
		hashes: make(map[string]string),
		good:   make(map[string][sha256.Size]byte), bad: make(map[[sha256.Size]byte]struct{}), checks: make(map[[sha256.Size]byte]*check),
	}
	n, dearest := 0, 0
	err := textfile.EachLine(io.TeeReader(in, sum), limits.PasswordBytes, func(line string) error {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			return nil
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return fmt.Errorf("line %d: must be user:hash", n)
		}
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil || len(hash) > bcryptLength {
			return fmt.Errorf("line %d: not a bcrypt hash (use htpasswd -B)", n)
		}
		if cost > mostCost {
			return fmt.Errorf("line %d: bcrypt cost %d takes too long to check; at most %d is allowed (htpasswd -B -C %d)", n, cost, mostCost, mostCost)
		}
		u.hashes[user] = hash
		if cost > dearest {
			u.dummy, dearest = hash, cost
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(u.hashes) == 0 {
		return nil, errors.New(path + " has no users")
	}
	copy(u.sum[:], sum.Sum(nil))
	return u, nil
}

// bcryptLength is how many bytes a hash by bcrypt has; with what follows it would match nothing.
const bcryptLength = 60

// Check finds who sends a request. Errors are errPassword where no password is right, of which one is
// errNoLogin, and, as waitErrors, errGuesses and errChecks where it wasn't looked at.
func (p *Passwords) Check(r *http.Request) (user string, err error) {
	user, password, given := r.BasicAuth()
	switch {
	case r.Header.Get("Authorization") == "":
		return "", ErrNoLogin
	case !given:
		return "", ErrPassword
	}
	u, _ := p.current()
	// What bcrypt doesn't read of a password must not make it another's.
	if u == nil || len(password) > mostPassword || strings.Contains(user+password, "\x00") {
		return user, ErrPassword
	}
	sum := sha256.Sum256([]byte(user + "\x00" + password))
	u.mu.Lock()
	err, known := u.known(user, sum)
	u.mu.Unlock()
	if known {
		return user, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), limits.PasswordWait)
	defer cancel()
	return user, p.findOut(ctx, u, client.AddressOf(r.RemoteAddr).Network, user, password, sum)
}

// known is what was found out of a password. The caller holds u.mu.
func (u *users) known(user string, sum [sha256.Size]byte) (err error, known bool) {
	if good, ok := u.good[user]; ok && good == sum {
		return nil, true
	}
	if _, bad := u.bad[sum]; bad {
		return ErrPassword, true
	}
	return nil, false
}

// findOut works out whether a password is right, or waits for who does.
func (p *Passwords) findOut(ctx context.Context, u *users, network netip.Prefix, user, password string, sum [sha256.Size]byte) error {
	for {
		u.mu.Lock()
		if err, known := u.known(user, sum); known {
			u.mu.Unlock()
			return err
		}
		c := u.checks[sum]
		if c == nil {
			c = &check{done: make(chan struct{})}
			u.checks[sum] = c
			u.mu.Unlock()
			c.err = p.try(ctx, u, network, user, password)
			u.settle(c, user, sum)
			return c.err
		}
		u.mu.Unlock()
		select {
		case <-c.done:
			if c.err == nil || errors.Is(c.err, ErrPassword) {
				return c.err
			} // else it had no turn there, and may have one here
		case <-ctx.Done():
			return WaitError{ErrBusy, time.Second}
		}
	}
}

// settle remembers what a check found out.
func (u *users) settle(c *check, user string, sum [sha256.Size]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.checks, sum)
	switch {
	case c.err == nil:
		u.good[user] = sum
	case errors.Is(c.err, ErrPassword):
		if len(u.bad) >= mostBad {
			clear(u.bad)
		}
		u.bad[sum] = struct{}{}
	}
	close(c.done)
}

// try works out whether a password is right, when it is its turn.
func (p *Passwords) try(ctx context.Context, u *users, network netip.Prefix, user, password string) error {
	if err := p.turns.enter(ctx, network); err != nil {
		return err
	}
	hash, known := u.hashes[user]
	if !known {
		hash = u.dummy
	}
	var err error
	p.work.Do(func() { err = bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) })
	good := err == nil && known
	p.turns.leave(network, good)
	if !good {
		return ErrPassword
	}
	return nil
}
