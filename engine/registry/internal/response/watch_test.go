package response

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// endsAtOnce gives its last bytes together with its end, as net/http does.
type endsAtOnce struct{ *strings.Reader }

func (e endsAtOnce) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if err == nil && e.Len() == 0 {
		err = io.EOF
	}
	return n, err
}

func (endsAtOnce) Close() error { return nil }

// Every byte is waited for, those that come with the end of a body, too.
func TestTheLimitIsForAllBytes(t *testing.T) {
	const size, burst = 1000, 10_000
	w := Watch{Stall: time.Minute, Limit: rate.NewLimiter(rate.Limit(1e-9), burst)}
	for n := 1; n <= 5; n++ {
		body := w.Body(context.Background(), &http.Response{Body: endsAtOnce{strings.NewReader(strings.Repeat("x", size))}})
		if _, err := io.ReadAll(body); err != nil {
			t.Fatal(err)
		}
		if left := int(w.Limit.Tokens()); left != burst-n*size {
			t.Errorf("after %d bodies %d bytes are left of the burst, want %d", n, left, burst-n*size)
		}
	}
}
