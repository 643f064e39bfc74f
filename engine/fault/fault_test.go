package fault_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/exec"
	"syscall"
	"testing"

	"drayage/engine/fault"
)

func TestOfFollowsTheOrderOfKinds(t *testing.T) {
	denied := fault.New(fault.Denied, "login required")
	full := &fs.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}
	dial := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		err  error
		want fault.Kind
	}{
		{nil, fault.Unknown},
		{errors.New("boo"), fault.Unknown},
		{denied, fault.Denied},
		{fmt.Errorf("asking: %w", denied), fault.Denied},
		{fmt.Errorf("%w: %w", fault.New(fault.Network, "gave up"), denied), fault.Denied},
		{errors.Join(dial, fault.As(fault.Content, io.EOF)), fault.Content},
		{fault.As(fault.Local, dial), fault.Local},
		{dial, fault.Network},
		{full, fault.Local},
		{fmt.Errorf("%w: %w", dial, full), fault.Network},
		{fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), fault.Network},
		{&exec.Error{Name: "x", Err: exec.ErrNotFound}, fault.Local},
		{fault.About("app:1", denied), fault.Denied},
		{fault.About("app:1", errors.New("boo")), fault.Unknown},
	} {
		if got := fault.Of(c.err); got != c.want {
			t.Errorf("Of(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestNamesAndHintsAreThoseNearestToTheError(t *testing.T) {
	err := fault.About("app:1", fmt.Errorf("fetching: %w",
		fault.About("r.example", fault.WithHint(fault.Denied, "login required", "run drayage login r.example"))))
	if got := err.Error(); got != "app:1: fetching: r.example: login required" {
		t.Errorf("it says %q", got)
	}
	if got := fault.Bare(err).Error(); got != "fetching: r.example: login required" {
		t.Errorf("without its name it says %q", got)
	}
	if other := fault.New(fault.Local, "boo"); !errors.Is(fault.Bare(other), other) || fault.Bare(nil) != nil {
		t.Error("an error without a name has changed")
	}
	if got := fault.HintOf(errors.Join(errors.New("boo"), err)); got != "run drayage login r.example" {
		t.Errorf("the hint is %q", got)
	}
	if fault.HintOf(errors.New("boo")) != "" || fault.HintOf(nil) != "" {
		t.Error("a hint out of nothing")
	}
}

func TestNilStaysNil(t *testing.T) {
	if fault.As(fault.Local, nil) != nil || fault.About("x", nil) != nil {
		t.Error("no error became one")
	}
}

func TestASentinelIsFoundByIs(t *testing.T) {
	a, b := fault.New(fault.Local, "exists"), fault.New(fault.Local, "exists")
	if err := fmt.Errorf("writing x: %w", a); !errors.Is(err, a) || errors.Is(err, b) {
		t.Error("sentinels are not told apart")
	}
}

func TestEveryKindHasItsWord(t *testing.T) {
	seen := make(map[string]bool)
	for k := fault.Unknown; k <= fault.Network; k++ {
		if k.String() == "" || seen[k.String()] {
			t.Errorf("kind %d is called %q", k, k)
		}
		seen[k.String()] = true
	}
}
