//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"drayage/engine/chaos"
)

// http2 measures why blobs go over HTTP/1.1: eight streams of one HTTP/2
// connection, which is what clients make, against eight connections, on links
// where a connection has a share, as congestion control gives it.
func http2(ctx context.Context, b bench) ([]bar, error) {
	var out []bar
	for _, link := range []struct {
		name string
		o    chaos.Options
	}{
		{"12 MB/s a connection", chaos.Options{RatePerConnection: 12e6}},
		{"no limit", chaos.Options{}},
	} {
		var ratios, one, many []float64
		for range b.rounds {
			took := make([]float64, 2)
			for i, version := range []int{1, 2} {
				var err error
				if took[i], err = eightGets(ctx, link.o, version); err != nil {
					return nil, err
				}
			}
			many, one = append(many, took[0]), append(one, took[1])
			ratios = append(ratios, took[0]/took[1])
		}
		out = append(out, bar{what: "8 x 16 MiB over TLS, " + link.name + ": HTTP/1.1 on 8 connections / HTTP/2 on one",
			measured: fmt.Sprintf("%.2fx (%.2fs / %.2fs)", median(ratios), median(many), median(one))})
	}
	return out, nil
}

// eightGets gets eight times 16 MiB at once, by an HTTP version.
func eightGets(ctx context.Context, o chaos.Options, version int) (float64, error) {
	const gets, size = 8, 16 << 20
	content := make([]byte, size)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(content)
	}))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	server.Listener.Close()
	server.Listener = chaos.New(nil, o).Listen(l)
	server.EnableHTTP2 = version == 2
	server.StartTLS()
	defer server.Close()
	var protocols http.Protocols
	protocols.SetHTTP1(version == 1)
	protocols.SetHTTP2(version == 2)
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()

	errs := make([]error, gets)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range gets {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
			if err != nil {
				errs[i] = err
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				errs[i] = err
				return
			}
			defer resp.Body.Close()
			if resp.ProtoMajor != version {
				errs[i] = fmt.Errorf("HTTP/%d, want %d", resp.ProtoMajor, version)
				return
			}
			_, errs[i] = io.Copy(io.Discard, resp.Body)
		})
	}
	wg.Wait()
	return time.Since(start).Seconds(), errors.Join(errs...)
}
