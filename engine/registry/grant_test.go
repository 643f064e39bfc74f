package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/wire"
)

// A token is replaced before it runs out; while it is good, a token server that fails is in
// nobody's way.
func TestATokenServerThatFailsWhileATokenIsGood(t *testing.T) {
	status, token := http.StatusOK, "one"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"token":%q,"expires_in":3600}`, token)
	}))
	defer server.Close()
	c := New(Options{})
	defer c.Close()
	ctx := reach.WithTrail(t.Context(), reach.NewTrail(nil))
	h := &host{name: "127.0.0.1:1", registry: "127.0.0.1:1", base: "/v2", scheme: "http", grants: make(map[grantKey]*grant)}
	g := h.grant("team/app", false)
	ch := wire.Challenge{Scheme: "bearer", By: "http", Params: []wire.Param{{Name: "realm", Value: server.URL}}}
	if got, err := c.obtain(ctx, g, "", ch); got != "Bearer one" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	for _, want := range []struct {
		status      int
		token, sent string
		good        time.Duration // from now on
	}{{200, "two", "Bearer two", time.Minute}, {404, "", "Bearer two", time.Minute}, {200, "three", "Bearer three", time.Minute}, {404, "", "", -time.Minute}} {
		status, token = want.status, want.token
		g.renew, g.end = time.Now().Add(-time.Second), time.Now().Add(want.good)
		got, err := c.authorization(ctx, g)
		if got != want.sent || (err != nil) != (want.sent == "") {
			t.Errorf("%d, good for %v: %q, %v", want.status, want.good, got, err)
		}
	}
}
