package bench

import (
	"testing"
	"time"

	"drayage/engine/event"
)

func TestExchanges(t *testing.T) {
	x := new(Exchanges)
	if got := x.times(); got != nil {
		t.Errorf("%+v", got)
	}
	for _, r := range []event.Requested{
		{URL: "https://b.example/v2/app/manifests/1", Status: 200},
		{URL: "https://b.example/v2/app/manifests/2", Status: 404},
		{URL: "https://a.example/v2/app/manifests/1", Status: 200},
		{URL: "https://a.example/v2/app/blobs/sha256:00", Status: 307},
		{URL: "https://a.example/token", Status: 200},
		// What is none of them:
		{URL: "https://a.example/v2/app/blobs/sha256:00", Status: 206},
		{URL: "https://a.example/v2/app/manifests/1"}, // no response
		{URL: "https://a.example/v2/token/blobs/sha256:00", Status: 200},
		{URL: "https://a.example/v2/", Status: 401},
		{URL: "://", Status: 200},
	} {
		r.Took = 10 * time.Millisecond
		x.Observe(r)
	}
	x.Observe(event.Retrying{})
	want := []struct {
		kind, host string
		count      int64
	}{{"manifest", "a.example", 1}, {"manifest", "b.example", 2}, {"redirect", "a.example", 1}, {"token", "a.example", 1}}
	got := x.times()
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		g := got[i]
		if g.Kind != w.kind || g.Host != w.host || g.Count != w.count || g.P50 < 0.0099 || g.P50 > 0.0101 {
			t.Errorf("%+v, want %+v", g, w)
		}
	}
}
