package password

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/cmd/drayage/internal/limits"
	"drayage/engine/limitstest"

	"golang.org/x/crypto/bcrypt"
)

func askFrom(ctx context.Context, p *Passwords, address, user, password string) error {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/", nil)
	r.RemoteAddr = net.JoinHostPort(address, "1")
	r.SetBasicAuth(user, password)
	_, err := p.Check(r)
	return err
}

// usersFile writes a password file with so many users, user-0 with the password 0 and so on. They
// have few hashes between them, which take their time to make.
func usersFile(t *testing.T, users int) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i := range users {
		fmt.Fprintf(&text, "user-%d:%s\n", i, hash)
	}
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// watch reads a password file, and watches it until the test ends.
func watch(t *testing.T, path string) *Passwords {
	t.Helper()
	p, err := Read(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Watch(ctx, func(string) {}) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// busy has all that works out passwords be busy until it is called off.
func busy(p *Passwords) (off func()) {
	long := make(chan struct{})
	var all sync.WaitGroup
	for range p.work.Places() {
		all.Go(func() { p.work.Do(func() { <-long }) })
	}
	synctest.Wait()
	return func() { close(long); all.Wait() }
}

// outcomes counts what many checks at once come to.
type outcomes struct {
	all                          sync.WaitGroup
	good, wrong, guesses, checks atomic.Int32
}

func (o *outcomes) ask(ctx context.Context, p *Passwords, address, user, password string) {
	o.all.Go(func() {
		switch err := askFrom(ctx, p, address, user, password); {
		case err == nil:
			o.good.Add(1)
		case errors.Is(err, ErrPassword):
			o.wrong.Add(1)
		case errors.Is(err, ErrGuesses):
			o.guesses.Add(1)
		case errors.Is(err, ErrBusy):
			o.checks.Add(1)
		}
	})
}

func (o *outcomes) want(t *testing.T, name string, good, wrong, guesses, checks int32) {
	t.Helper()
	o.all.Wait()
	if g, w, x, c := o.good.Load(), o.wrong.Load(), o.guesses.Load(), o.checks.Load(); g != good || w != wrong || x != guesses || c != checks {
		t.Errorf("%s: %d good, %d wrong, %d too many guesses, %d too many checks; want %d, %d, %d, %d", name, g, w, x, c, good, wrong, guesses, checks)
	}
}

func (c *checks) idle(t *testing.T) {
	t.Helper()
	if c.running != 0 || c.waiting != 0 || len(c.of) != 0 || len(c.queue) != 0 {
		t.Errorf("%d run, %d wait, %d lines, %d of them in the queue", c.running, c.waiting, len(c.of), len(c.queue))
	}
}

// All clients of a reverse proxy have its address. However many log in at once, they wait for
// their turn, and what is right is not taken from what may be guessed.
func TestFirstLoginsWaitForTheirTurn(t *testing.T) {
	path := usersFile(t, limits.PasswordChecksPerNetwork)
	for _, address := range []string{"127.0.0.1", "10.0.0.1", "2001:db8::1"} {
		synctest.Test(t, func(t *testing.T) {
			p := watch(t, path)
			off := busy(p)
			var o outcomes
			for i := range limits.PasswordChecksPerNetwork {
				o.ask(t.Context(), p, address, fmt.Sprint("user-", i), "s3cret")
			}
			synctest.Wait()
			off()
			o.want(t, address, limits.PasswordChecksPerNetwork, 0, 0, 0)
			var wrong outcomes
			for i := range wrongAtOnce + 10 {
				wrong.ask(t.Context(), p, address, "user-0", fmt.Sprint("wrong", i))
			}
			wrong.want(t, address, 0, wrongAtOnce, 10, 0)
			p.turns.idle(t)
		})
	}
}

// Few wait, in all and of one network, and not for long.
func TestChecksThatWaitAreBounded(t *testing.T) {
	path := usersFile(t, limits.PasswordChecks+1)
	synctest.Test(t, func(t *testing.T) {
		p := watch(t, path)
		off := busy(p)
		var one outcomes
		began := time.Now()
		running := p.work.Places() // which have their turn, and are worked out at last
		for i := range running + limits.PasswordChecksPerNetwork {
			one.ask(t.Context(), p, "10.0.0.1", fmt.Sprint("user-", i), "s3cret")
		}
		synctest.Wait()
		if err := askFrom(t.Context(), p, "10.0.0.1", "user-0", "one more"); !errors.Is(err, ErrBusy) || time.Since(began) > 0 {
			t.Errorf("one more: %v after %s", err, time.Since(began))
		}
		time.Sleep(limits.PasswordWait + time.Second)
		off()
		one.want(t, "of one network", int32(running), 0, 0, limits.PasswordChecksPerNetwork)
		p.turns.idle(t)
	})
	synctest.Test(t, func(t *testing.T) {
		p := watch(t, path)
		off := busy(p)
		var all outcomes
		running := p.work.Places()
		for i := range running + limits.PasswordChecks {
			all.ask(t.Context(), p, fmt.Sprintf("10.0.%d.%d", i/256, i%256), fmt.Sprint("user-", i%limits.PasswordChecks), fmt.Sprint("wrong-", i))
		}
		synctest.Wait()
		if err := askFrom(t.Context(), p, "10.9.9.9", "user-0", "one more"); !errors.Is(err, ErrBusy) {
			t.Errorf("one more: %v", err)
		}
		off()
		all.want(t, "of all", 0, int32(running+limits.PasswordChecks), 0, 0)
		p.turns.idle(t)
	})
}

// An address with many checks holds up no other: each has a turn, and where there is no room the
// longest line gives way.
func TestChecksAreFair(t *testing.T) {
	path := usersFile(t, 2*limits.PasswordChecks)
	synctest.Test(t, func(t *testing.T) {
		p := watch(t, path)
		off := busy(p)
		var many, few outcomes
		for i := range limits.PasswordChecks + p.work.Places() {
			many.ask(t.Context(), p, fmt.Sprintf("10.0.0.%d", i%8), fmt.Sprint("user-", i), "s3cret")
			synctest.Wait()
		}
		var order []string
		p.turns.mu.Lock()
		full := p.turns.waiting
		p.turns.mu.Unlock()
		if full != limits.PasswordChecks {
			t.Errorf("%d wait", full)
		}
		for i := range 10 {
			few.ask(t.Context(), p, fmt.Sprintf("10.0.1.%d", i), fmt.Sprint("user-", limits.PasswordChecks+100+i), "s3cret")
			synctest.Wait()
		}
		p.turns.mu.Lock()
		for _, l := range p.turns.queue {
			order = append(order, fmt.Sprint(l.network.Addr(), " ", len(l.waiting)))
		}
		full = p.turns.waiting
		p.turns.mu.Unlock()
		if full != limits.PasswordChecks || len(order) != 18 {
			t.Errorf("%d wait, of %q", full, order)
		}
		off()
		few.want(t, "few", 10, 0, 0, 0)
		many.want(t, "many", int32(limits.PasswordChecks+p.work.Places()-10), 0, 0, 10)
		p.turns.idle(t)
	})
}

// Who leaves while waiting leaves no trace, and takes nobody along who asks for the same.
func TestWhoLeavesTakesNobodyAlong(t *testing.T) {
	path := usersFile(t, 10)
	synctest.Test(t, func(t *testing.T) {
		p := watch(t, path)
		off := busy(p)
		var others, left, same outcomes
		for i := range p.work.Places() {
			others.ask(t.Context(), p, "10.0.0.2", "user-1", fmt.Sprint(i))
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		left.ask(ctx, p, "10.0.0.1", "user-0", "s3cret")
		synctest.Wait()
		for i := range 100 {
			same.ask(t.Context(), p, fmt.Sprintf("10.0.1.%d", i), "user-0", "s3cret")
		}
		synctest.Wait()
		cancel()
		left.want(t, "who left", 0, 0, 0, 1)
		synctest.Wait()
		off()
		same.want(t, "who asked for the same", 100, 0, 0, 0)
		others.all.Wait()
		p.turns.idle(t)
	})
}

// A file system that doesn't answer, as NFS does, holds up nobody: for a while what the file said
// before counts, and then nobody is let in, as when the file is gone.
func TestHungFileSystemHoldsUpNobody(t *testing.T) {
	path := usersFile(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p, err := Read(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		hangs := [3]chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		close(hangs[1]) // which is read at once when the first, which is old by then, has ended
		var hung atomic.Int32
		p.read = func(path string, old *users) (*users, error) {
			<-hangs[hung.Add(1)-1]
			return readUsers(path, old)
		}
		var told []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Watch(ctx, func(s string) { told = append(told, s) }) }()
		ask := func(want error) {
			t.Helper()
			began := time.Now()
			if err := askFrom(t.Context(), p, "10.0.0.1", "user-0", "s3cret"); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
			if took := time.Since(began); took > 0 {
				t.Errorf("it was held up for %s", took)
			}
		}
		ask(nil)
		time.Sleep(lookOften + time.Second)
		ask(nil)
		time.Sleep(time.Minute)
		ask(ErrPassword)
		if err := p.Fault(); err == nil || !strings.Contains(err.Error(), "doesn't answer") || !strings.Contains(err.Error(), path) {
			t.Errorf("the fault is %v", err)
		}
		if n := hung.Load(); n != 1 {
			t.Errorf("%d readings wait for the file system", n)
		}
		close(hangs[0])
		time.Sleep(2 * time.Second)
		ask(nil)
		if len(told) != 2 || !strings.Contains(told[0], "nobody is let in") || !strings.Contains(told[1], "can be used again") {
			t.Errorf("%q", told)
		}
		time.Sleep(lookOften)
		if n := hung.Load(); n != 3 {
			t.Errorf("%d readings", n)
		}
		cancel()
		<-done // which waits for no reading
		close(hangs[2])
	})
}

// A password file takes a few times its size of memory, whatever it has, also while it is read again.
func TestMemoryOfPasswordFilesIsBounded(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	var users strings.Builder
	for i := 0; users.Len() < limits.PasswordBytes-100; i++ {
		fmt.Fprintf(&users, "%x:%s\n", i, hash)
	}
	path := filepath.Join(t.TempDir(), "users")
	for name, text := range map[string]string{
		"users": users.String(), "empty lines": strings.Repeat("\n", limits.PasswordBytes), "comments": strings.Repeat("#\n", limits.PasswordBytes/2),
		"one line": strings.Repeat("x", limits.PasswordBytes), "one user": strings.Repeat("a:"+string(hash)+"\n", limits.PasswordBytes/(len(hash)+3)),
		"too large": strings.Repeat("\n", limits.PasswordBytes+1),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		limitstest.Within(t, 8*limits.PasswordBytes, func() {
			u, err := readUsers(path, nil)
			if ok := name == "users" || name == "one user"; (err == nil) != ok {
				t.Errorf("%s: %v", name, err)
			}
			if name == "too large" && !strings.Contains(fmt.Sprint(err), "too large: more than 16777216") {
				t.Errorf("%s: %v", name, err)
			}
			if u != nil { // and once more, after an edit
				u.sum = [len(u.sum)]byte{}
				if _, err := readUsers(path, u); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// An edit of the file costs those nothing whose hash is what it was, and lets nobody stay whose is not.
func TestEditsOfThePasswordFileForgetNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write := func(users ...string) {
		t.Helper()
		text := ""
		for _, u := range users {
			text += u + ":" + string(hash) + "\n"
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ann", "bob")
	synctest.Test(t, func(t *testing.T) {
		p := watch(t, path)
		for _, user := range []string{"ann", "bob"} {
			if err := askFrom(t.Context(), p, "10.0.0.1", user, "s3cret"); err != nil {
				t.Fatal(err)
			}
		}
		write("ann", "carol")
		time.Sleep(time.Minute)
		if u, err := p.current(); err != nil || len(u.good) != 1 {
			t.Errorf("%d are known to be right, %v", len(u.good), err)
		}
		if err := askFrom(t.Context(), p, "10.0.0.1", "bob", "s3cret"); !errors.Is(err, ErrPassword) {
			t.Errorf("who was removed: %v", err)
		}
	})
}
