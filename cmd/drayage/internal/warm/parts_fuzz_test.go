package warm

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// FuzzCron reads schedules. The next time of one is after now, and every one has a next time soon
// or none at all.
func FuzzCron(f *testing.F) {
	for _, s := range []string{
		"0 5 * * *", "@daily", "@every 1h", "*/7 1-3,5 * * sun", "0 0 30 2 *", "TZ=Europe/Berlin 30 2 * * *", "CRON_TZ=../../etc/passwd * * * * *", "* * * * 7/0", "0 0 * * fri-sun", "* * * * 5-7/2", "99999999999999999999 * * * *", "* * * *", "? ? ? ? ?", "0-59/99 * * * *", "TZ= * * * * *", "TZ=x",
	} {
		f.Add(s, int64(1767323045), true)
		f.Add(s, int64(1774745999), false) // before a day that lacks an hour
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Skip(err)
	}
	f.Fuzz(func(t *testing.T, text string, unix int64, summer bool) {
		s, err := parseCron(text)
		if err != nil {
			return
		}
		now := time.Unix(unix%(1<<35), 0).UTC()
		if summer {
			now = now.In(berlin)
		}
		next := s.Next(now)
		if !next.IsZero() && !next.After(now) {
			t.Errorf("%q: the next time after %s is %s", text, now, next)
		}
		if !next.IsZero() && next.Sub(now) > 10*366*24*time.Hour {
			t.Errorf("%q: the next time after %s is %s", text, now, next)
		}
	})
}

// FuzzChoose picks tags. What is picked is of the list and in an order that doesn't depend on the
// list's.
func FuzzChoose(f *testing.F) {
	for _, s := range []string{"1.2,1.10,v1.3-rc1,latest", "1,01,001,v1,vv1", ",,-,_", "9999999999999999999999999999,1e5,0x1", "\xff,é,1.é", "sha256-" + strings.Repeat("0", 64) + ".sig,1", "1-a,1_a,1.a,1a,1"} {
		f.Add(s, "*", "", 0)
		f.Add(s, "v*", "*-rc*", 2)
	}
	f.Add("a", "[", "]", 1)
	f.Add("a", "[^", `\`, -1)
	f.Fuzz(func(t *testing.T, list, pattern, exclude string, newest int) {
		tags := strings.Split(list, ",")
		if len(tags) > 100 {
			return
		}
		s := Selector{Tags: pattern, Exclude: exclude, Newest: newest}
		got := s.choose(slices.Clone(tags))
		backwards := slices.Clone(tags)
		slices.Reverse(backwards)
		if again := s.choose(backwards); !slices.Equal(got, again) {
			t.Errorf("%q gives %q, and backwards %q", tags, got, again)
		}
		if newest > 0 && len(got) > newest {
			t.Errorf("%d tags, and %d are wanted", len(got), newest)
		}
		for _, tag := range got {
			if !slices.Contains(tags, tag) {
				t.Errorf("%q is none of %q", tag, tags)
			}
		}
		for _, a := range tags {
			for _, b := range tags {
				if compareTags(a, b) != 0 != (a != b) || sign(compareTags(a, b)) != -sign(compareTags(b, a)) {
					t.Errorf("%q and %q compare as %d, and the other way as %d", a, b, compareTags(a, b), compareTags(b, a))
				}
			}
		}
	})
}

func sign(n int) int {
	return min(1, max(-1, n))
}

// FuzzState reads what is known of a group from any bytes, and goes on with that.
func FuzzState(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"group":"a","images":[{"name":"x","digest":"sha256:x","history":[{"digest":"y"}],"tries":-5}],"next":"9999-12-31T23:59:59Z","fetched":-1}`, `{"version":1,"group":"b"}`, `{"version":2,"group":"a"}`, `null`, ``, `{"version":1,"group":"a","images":[null,{}]}`, `{"version":1,"group":"a","began":"0000-00-00"}`,
	} {
		f.Add([]byte(s))
	}
	now := time.Unix(1767323045, 0)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := ReadState(raw, "a")
		if s.Version != stateVersion || s.Group != "a" {
			t.Errorf("%q is %+v", raw, s)
		}
		for _, i := range s.Selected() {
			s.Fresh(i, now)
		}
		s.image("x").fine("sha256:y", now)
		if again := ReadState(s.marshal(), "a"); len(again.Images) != len(s.Images) {
			t.Errorf("%q is %+v, and written and read again %+v", raw, s, again)
		}
	})
}
