package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"drayage/cmd/drayage/internal/listen"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine/chaos"
	"drayage/engine/printable"

	"github.com/spf13/cobra"
)

// chaosOptions are the flags of chaos.
type chaosOptions struct {
	chaos.Options
	upstream, listen string

	perConnection, all, slow        units.ByteRate
	reset, closing, stall, flip     units.Size
	ignore, wrong, errors, slowPart units.Fraction
}

func chaosCommand(s process.Streams) *cobra.Command {
	var o chaosOptions
	cmd := &cobra.Command{
		Use:   "chaos --upstream HOST:PORT [flags]",
		Short: "Simulate a bad network link",
		Long: `Simulate a bad network link: run a proxy in front of a registry, or any other
HTTP server, that drops, stalls, slows and corrupts responses. Faults are drawn
from a seed: the same seed and the same requests have the same faults.

"About SIZE" is from half to one and a half times SIZE, drawn per connection.
A SHARE is from 0 to 1, or a percentage; a RATE is in bytes per second. Port 0
is any free port: the first line of standard output is the proxy's URL. Its path
/stats returns counters of bytes, connections, requests and faults; they are
also printed when chaos is interrupted.`,
		Example: `  drayage chaos --upstream localhost:5000 --listen localhost:5001 --reset-after 8M
  drayage chaos --upstream https://registry.example --latency 40ms --rate 100M
  drayage chaos --upstream localhost:5000 --errors 5% --storm 20 --retry-after 2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runChaos(cmd.Context(), s, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.upstream, "upstream", "", "server: `HOST:PORT` for plain HTTP, or a URL")
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "listen on `HOST:PORT`")
	f.Uint64Var(&o.Seed, "seed", 1, "seed that faults are drawn from")
	f.DurationVar(&o.Latency, "latency", 0, "add `DUR` to each round trip")
	f.Var(&o.perConnection, "rate-per-connection", "limit each connection to `RATE`")
	f.Var(&o.all, "rate", "limit all connections together to `RATE`")
	f.Var(&o.slowPart, "slow", "limit a `SHARE` of connections to --slow-rate")
	f.Var(&o.slow, "slow-rate", "limit slow connections to `RATE`")
	f.Var(&o.reset, "reset-after", "reset connections after about `SIZE`")
	f.Var(&o.closing, "close-after", "close connections cleanly after about `SIZE`")
	f.Var(&o.stall, "stall-after", "stall connections after about `SIZE`")
	f.DurationVar(&o.StallFor, "stall-for", 0, "stall for `DUR` (0: until disconnected)")
	f.Var(&o.flip, "flip-every", "change one bit per about `SIZE` of a body")
	f.Var(&o.ignore, "ignore-range", "ignore Range in a `SHARE` of requests")
	f.Var(&o.wrong, "wrong-range", "send a wrong Content-Range in a `SHARE`")
	f.Var(&o.errors, "errors", "begin errors at a `SHARE` of requests")
	f.IntSliceVar(&o.ErrorStatus, "error-status", []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, "draw errors from `STATUS`")
	f.IntVar(&o.StormLength, "storm", 1, "number of errors in a row: `N`")
	f.StringVar(&o.RetryAfter, "retry-after", "", "send errors with Retry-After: `VALUE`")
	f.DurationVar(&o.RedirectLife, "redirect", 0, "redirect blobs to URLs that are valid for `DUR`")
	return cmd
}

// runChaos runs the proxy until ctx is done.
func runChaos(ctx context.Context, s process.Streams, o chaosOptions) error {
	if o.upstream == "" {
		return status.Misuse(errors.New("--upstream is required: the server behind the link"))
	}
	if (o.slowPart > 0) != (o.slow > 0) {
		return status.Misuse(errors.New("--slow and --slow-rate must be used together"))
	}
	for _, d := range []time.Duration{o.Latency, o.StallFor, o.RedirectLife} {
		if d < 0 {
			return status.Misuse(fmt.Errorf("%v: durations must not be negative", d))
		}
	}
	for _, code := range o.ErrorStatus {
		if code < 400 || code > 599 {
			return status.Misuse(fmt.Errorf("--error-status %d: must be from 400 to 599", code))
		}
	}
	if o.StormLength < 1 {
		return status.Misuse(errors.New("--storm must be at least 1"))
	}
	opts := o.Options
	opts.RatePerConnection, opts.Rate, opts.SlowRate = int64(o.perConnection), int64(o.all), int64(o.slow)
	opts.ResetAfter, opts.CloseAfter, opts.StallAfter, opts.FlipEvery = int64(o.reset), int64(o.closing), int64(o.stall), int64(o.flip)
	opts.IgnoreRange, opts.WrongRange, opts.Errors, opts.Slow = float64(o.ignore), float64(o.wrong), float64(o.errors), float64(o.slowPart)
	proxy, err := chaos.NewProxy(o.upstream, opts)
	if err != nil {
		return status.Misuse(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return listen.Explain("--listen", o.listen, err)
	}
	printable.Fprintf(s.Out, "http://%s\n", l.Addr())
	if err := proxy.Serve(ctx, l); err != nil {
		return err
	}
	raw, err := json.Marshal(proxy.Stats())
	if err != nil {
		return err
	}
	_, err = printable.Fprintf(s.Out, "%s\n", raw)
	return err
}
