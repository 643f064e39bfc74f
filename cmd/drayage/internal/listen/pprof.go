package listen

import (
	"context"
	"drayage/cmd/drayage/internal/conns"
	"drayage/cmd/drayage/internal/web"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
)

// Pprof serves profiles on an address of their own; "" serves none. The caller closes the server.
func Pprof(ctx context.Context, address string, warn func(string)) (*conns.Server, error) {
	if address == "" {
		return nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, Explain("--pprof", address, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	var hosts *web.Hosts
	if IsLoopback(l.Addr()) {
		if hosts, err = web.NewHosts(nil, true); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	} else {
		warn(fmt.Sprintf("--pprof %s: profiles are served to other machines without a password, and show memory contents", address))
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hosts.Allows(r.Host) {
			http.Error(w, "profiles are served for localhost and loopback addresses only", http.StatusMisdirectedRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
	const connections = 64
	server := conns.New(conns.Options{Handler: conns.NoBodies(handler), Bounds: conns.Bounds{All: connections, PerClient: connections}})
	go func() { _ = server.Serve(l) }() // ends with Close
	return server, nil
}
