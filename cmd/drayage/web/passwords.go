package web

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"drayage/engine/limits"
	"drayage/engine/textfile"

	"golang.org/x/crypto/bcrypt"
)

// Passwords are those of a file as htpasswd -B writes it, a user:hash a line, with hashes by
// bcrypt alone. The file is read again every few seconds: who is no longer in it is refused then,
// and so is everybody when it can't be read or is broken, until it is whole again.
//
// Guessing is slow, and costs little: an address has some wrong passwords, then one every few
// seconds, and beyond that is refused before anything is worked out, but for passwords that were
// found to be right. Few checks may wait. What is asked for by many at once is worked out once.
type Passwords struct {
	path    string
	work    *limits.Work
	reading chan struct{} // holds one while the file is read: a lock
	wrong   *buckets      // of wrong passwords, by networks

	mu      sync.Mutex
	looked  time.Time // when the file was last looked at
	users   *users    // nil when nobody is let in
	fault   error     // of the latest reading
	tell    func(string)
	waiting int // checks that are worked out, or wait to be
	of      map[netip.Prefix]int
}

// users are what a file says, and what was found out by it.
type users struct {
	sum    [sha256.Size]byte // of the file
	hashes map[string][]byte
	dummy  []byte // a hash that is tried for users that aren't there, so that it takes as long

	mu     sync.Mutex
	good   map[[sha256.Size]byte]string // users whose passwords were right, by both
	bad    map[[sha256.Size]byte]string // users whose passwords were wrong
	checks map[[sha256.Size]byte]*check
}

// check is one that is worked out, for all who wait for it.
type check struct {
	done chan struct{}
	err  error
}

// Errors of Check.
var (
	errPassword = errors.New("a user name and password are wanted")
	errGuesses  = errors.New("too many wrong passwords from this address")
	errChecks   = errors.New("too many passwords are being checked")
)

// waitError is an error that passes.
type waitError struct {
	error
	wait time.Duration
}

func (w waitError) Unwrap() error { return w.error }

// What passwords may cost.
const (
	// mostCost is the largest bcrypt cost of a hash: at 15, a check takes some two seconds.
	mostCost = 15
	// mostPassword is how many bytes of a password bcrypt reads.
	mostPassword = 72
	// An address may be wrong so often at once, and then once in so long.
	wrongAtOnce = 20
	wrongEvery  = 2 * time.Second
	// So many checks may be under way or wait, in all and of one network.
	mostChecks, mostChecksOfOne = 64, 16
	// So many networks are known that were wrong lately.
	mostWrong = 20_000
)

// ReadPasswords reads a file. Hashes are worked out by turns of work; nil is work of their own.
func ReadPasswords(path string, work *limits.Work) (*Passwords, error) {
	if work == nil {
		work = limits.NewWork()
	}
	p := &Passwords{
		path: path, work: work, reading: make(chan struct{}, 1),
		wrong: newBuckets(1/wrongEvery.Seconds(), wrongAtOnce, mostWrong), of: make(map[netip.Prefix]int),
	}
	u, err := readUsers(path, nil)
	p.users, p.looked = u, time.Now()
	return p, err
}

// Watch looks after the file until ctx is done, also when nobody asks, and tells when it breaks and
// when it is whole again.
func (p *Passwords) Watch(ctx context.Context, tell func(string)) {
	p.mu.Lock()
	p.tell = tell
	p.mu.Unlock()
	tick := time.NewTicker(lookOften)
	defer tick.Stop()
	for {
		p.current()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// The file is looked at so often, and when it is broken, so often.
const (
	lookOften  = 4 * time.Second
	lookBroken = time.Second
)

// Fault is why nobody is let in, nil when the file can be read.
func (p *Passwords) Fault() error {
	p.current()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// current is what the file says, nil when it can't be read. It waits for the file when that wasn't
// looked at for some seconds.
func (p *Passwords) current() *users {
	if u, ok := p.recent(); ok {
		return u
	}
	p.reading <- struct{}{}
	defer func() { <-p.reading }()
	old, ok := p.recent()
	if ok { // somebody else has looked meanwhile
		return old
	}
	u, err := readUsers(p.path, old)
	p.mu.Lock()
	was, tell := p.fault, p.tell
	p.users, p.fault, p.looked = u, err, time.Now()
	p.mu.Unlock()
	switch {
	case tell == nil:
	case err != nil && was == nil:
		tell("the password file can't be used, and nobody is let in: " + err.Error())
	case err == nil && was != nil:
		tell("the password file " + p.path + " can be used again")
	}
	return u
}

// recent is what the file said a moment ago. ok is false when it is to be looked at again.
func (p *Passwords) recent() (u *users, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	often := lookOften
	if p.fault != nil {
		often = lookBroken
	}
	return p.users, time.Since(p.looked) < often
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
	const most = 16 << 20
	text, err := textfile.Read(path, most)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	sum := sha256.Sum256(text)
	if old != nil && old.sum == sum {
		return old, nil
	}
	u := &users{sum: sum, hashes: make(map[string][]byte), good: make(map[[sha256.Size]byte]string), bad: make(map[[sha256.Size]byte]string), checks: make(map[[sha256.Size]byte]*check)}
	n, dearest := 0, 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" {
			return nil, fmt.Errorf("%s, line %d: want user:hash", path, n)
		}
		cost, err := bcrypt.Cost([]byte(hash))
		if err != nil || len(hash) > bcryptLength {
			return nil, fmt.Errorf("%s, line %d: the hash is not by bcrypt, as htpasswd -B makes it", path, n)
		}
		if cost > mostCost {
			return nil, fmt.Errorf("%s, line %d: the hash has a cost of %d, which takes too long to check; want at most %d (htpasswd -B -C %d)", path, n, cost, mostCost, mostCost)
		}
		u.hashes[user] = []byte(hash)
		if cost > dearest {
			u.dummy, dearest = []byte(hash), cost
		}
	}
	if len(u.hashes) == 0 {
		return nil, errors.New(path + " has no users")
	}
	if old != nil { // whose hash is what it was needn't be checked anew
		old.mu.Lock()
		defer old.mu.Unlock()
		for sum, user := range old.good {
			if bytes.Equal(u.hashes[user], old.hashes[user]) {
				u.good[sum] = user
			}
		}
	}
	return u, nil
}

// bcryptLength is how many bytes a hash by bcrypt has; with what follows it would match nothing.
const bcryptLength = 60

// Check finds who sends a request. Errors are errPassword where no password is right, and, as
// waitErrors, errGuesses and errChecks where it wasn't looked at.
func (p *Passwords) Check(r *http.Request) (user string, err error) {
	user, password, given := r.BasicAuth()
	if !given {
		return "", errPassword
	}
	u := p.current()
	// What bcrypt doesn't read of a password must not make it another's.
	if u == nil || len(password) > mostPassword || strings.Contains(user+password, "\x00") {
		return user, errPassword
	}
	sum := sha256.Sum256([]byte(user + "\x00" + password))
	u.mu.Lock()
	_, good := u.good[sum]
	if _, bad := u.bad[sum]; good || bad {
		u.mu.Unlock()
		if !good {
			return user, errPassword
		}
		return user, nil
	}
	c := u.checks[sum]
	if c != nil { // by somebody else
		u.mu.Unlock()
		select {
		case <-c.done:
			return user, c.err
		case <-r.Context().Done():
			return user, errPassword // to nobody
		}
	}
	network := sourceOf(r.RemoteAddr).network
	if err := p.enter(network); err != nil {
		u.mu.Unlock()
		return user, err
	}
	c = &check{done: make(chan struct{})}
	u.checks[sum] = c
	u.mu.Unlock()
	c.err = p.try(u, user, password)
	p.leave(network, c.err == nil)
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.checks, sum)
	if c.err == nil {
		remember(u.good, sum, user)
	} else {
		remember(u.bad, sum, user)
	}
	close(c.done)
	return user, c.err
}

func remember(in map[[sha256.Size]byte]string, sum [sha256.Size]byte, user string) {
	const most = 1000
	if len(in) >= most {
		clear(in)
	}
	in[sum] = user
}

// try works out whether a password is right.
func (p *Passwords) try(u *users, user, password string) error {
	hash, known := u.hashes[user]
	if !known {
		hash = u.dummy
	}
	var err error
	p.work.Do(func() { err = bcrypt.CompareHashAndPassword(hash, []byte(password)) })
	if err != nil || !known {
		return errPassword
	}
	return nil
}

// enter takes a check from what a network may have, as if the password were wrong.
func (p *Passwords) enter(network netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.waiting >= mostChecks:
		return waitError{errChecks, time.Second}
	case !network.IsValid():
	case p.of[network] >= mostChecksOfOne:
		return waitError{errGuesses, time.Second}
	default:
		if wait := p.wrong.take(network, time.Now()); wait > 0 {
			return waitError{errGuesses, wait}
		}
	}
	p.waiting++
	p.of[network]++
	return nil
}

func (p *Passwords) leave(network netip.Prefix, good bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
	fewer(p.of, network)
	if good && network.IsValid() {
		p.wrong.give(network, time.Now())
	}
}
