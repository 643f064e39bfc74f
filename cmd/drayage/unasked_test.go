package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// What a server sends behind an answer is shown nowhere, also not by the library that meets it.
func TestWhatNobodyAskedForIsNotShown(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		body := `{"schemaVersion":2,"manifests":[]}`
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: %d\r\n\r\n%s\x1b[31munasked", len(body), body)
		_, _ = io.Copy(io.Discard, conn) // until the client leaves
	}))
	defer server.Close()
	image := server.Listener.Addr().String() + "/app:1"
	for _, args := range [][]string{{"inspect", image}, {"-p", "json", "pull", "-n", image}} {
		w.want(w.run(args...), 4, "!unasked", "!Unsolicited")
	}
}
