package web

import (
	"testing"
)

func TestHostsOfRequests(t *testing.T) {
	local, err := NewHosts([]string{"Mirror.Example", "10.1.2.3", "other.example:5000"}, true)
	if err != nil {
		t.Fatal(err)
	}
	far, err := NewHosts([]string{"mirror.example"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string][2]bool{
		"localhost": {true, false}, "localhost:5000": {true, false}, "LocalHost.:5000": {true, false}, "127.0.0.1": {true, false}, "127.9.8.7:80": {true, false},
		"[::1]:5000": {true, false}, "[::1]": {true, false}, "[::ffff:127.0.0.1]:5000": {true, false}, "[0:0::1]": {true, false},
		"mirror.example": {true, true}, "MIRROR.example.:443": {true, true}, "mirror.example:": {true, true}, "10.1.2.3:5000": {true, false}, "other.example": {true, false},
		"": {}, ":5000": {}, "evil.example": {}, "evil.example:5000": {}, "localhost.evil.example": {}, "127.0.0.1.evil.example": {}, "mirror.example.evil": {}, "xmirror.example": {},
		"10.1.2.4": {}, "[::2]": {}, "[::1": {}, "localhost:5000:80": {}, "localhost:x": {}, "user@localhost": {}, "0.0.0.0": {}, "[::]": {}, "127.1": {}, "2130706433": {}, "0x7f.0.0.1": {}, "localhost/": {}, "localhost..": {},
	} {
		if got := [2]bool{local.Allows(header), far.Allows(header)}; got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	for _, any := range [][]string{nil, {"*"}, {"x.example", "*"}} {
		h, err := NewHosts(any, len(any) > 0)
		if err != nil || !h.Allows("evil.example") || !h.Allows("") {
			t.Errorf("%q: %v", any, err)
		}
	}
	for _, bad := range []string{"", "http://mirror.example", "a b", "*.example", "a:b:c"} {
		if _, err := NewHosts([]string{bad}, false); err == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
}
