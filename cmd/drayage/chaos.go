package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"drayage/engine/chaos"
	"drayage/engine/printable"

	"github.com/spf13/cobra"
)

// chaosOptions are the flags of chaos, as given.
type chaosOptions struct {
	chaos.Options
	upstream, listen string

	perConnection, all, slow        rate
	reset, closing, stall, flip     byteSize
	ignore, wrong, errors, slowPart share
}

func chaosCommand(s streams) *cobra.Command {
	var o chaosOptions
	cmd := &cobra.Command{
		Use:   "chaos --upstream HOST:PORT [flags]",
		Short: "Be a bad link for testing: a proxy that drops, stalls, slows and corrupts",
		Long: `Chaos is a proxy in front of a registry, or of any HTTP server, that does to
its clients what bad links and bad servers do. What happens when is drawn from a
seed: the same seed and the same requests meet the same faults.

"About SIZE" is half of it to one and a half times, drawn for each connection.
Shares are from 0 to 1. The first line of standard output is the proxy's URL.
Its path /stats answers with counters of bytes, connections, requests and faults,
and so does standard output when chaos is interrupted.`,
		Example: `  drayage chaos --upstream localhost:5000 --listen localhost:5001 --reset-after 8M
  drayage chaos --upstream https://registry.example --latency 40ms --rate-per-connection 12M --rate 100M
  drayage chaos --upstream localhost:5000 --errors 0.05 --storm 20 --retry-after 2 --redirect 10s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runChaos(cmd.Context(), s, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.upstream, "upstream", "", "the server to be a link to: `HOST:PORT`, which speaks plain HTTP, or a URL")
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "where clients connect: `HOST:PORT`; port 0 takes a free one")
	f.Uint64Var(&o.Seed, "seed", 1, "what faults are drawn from")
	f.DurationVar(&o.Latency, "latency", 0, "add `DUR` to each round trip")
	f.Var(&o.perConnection, "rate-per-connection", "bytes a second of each connection: `RATE`")
	f.Var(&o.all, "rate", "bytes a second of all connections together: `RATE`")
	f.Var(&o.slowPart, "slow", "`SHARE` of connections that are slow")
	f.Var(&o.slow, "slow-rate", "bytes a second of a slow one: `RATE`")
	f.Var(&o.reset, "reset-after", "reset each connection after about `SIZE`")
	f.Var(&o.closing, "close-after", "close each connection, in good order, after about `SIZE`")
	f.Var(&o.stall, "stall-after", "let each connection fall silent after about `SIZE`")
	f.DurationVar(&o.StallFor, "stall-for", 0, "for `DUR`; 0 is until the client hangs up")
	f.Var(&o.flip, "flip-every", "change one bit about every `SIZE` of a body")
	f.Var(&o.ignore, "ignore-range", "`SHARE` of requests for a range that get the whole")
	f.Var(&o.wrong, "wrong-range", "`SHARE` of requests for a range that get a wrong Content-Range")
	f.Var(&o.errors, "errors", "`SHARE` of requests that begin a storm of errors")
	f.IntSliceVar(&o.ErrorStatus, "error-status", []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}, "their `STATUS`, drawn from these")
	f.IntVar(&o.StormLength, "storm", 1, "answer `N` requests in a row so")
	f.StringVar(&o.RetryAfter, "retry-after", "", "with this `VALUE` of Retry-After")
	f.DurationVar(&o.RedirectLife, "redirect", 0, "send clients for blobs to a signed URL of another port, which works for `DUR`")
	return cmd
}

// runChaos is what drayage chaos does.
func runChaos(ctx context.Context, s streams, o chaosOptions) error {
	if o.upstream == "" {
		return usageError{errors.New("--upstream is missing: the server to be a link to")}
	}
	if (o.slowPart > 0) != (o.slow > 0) {
		return usageError{errors.New("--slow and --slow-rate go together")}
	}
	for _, d := range []time.Duration{o.Latency, o.StallFor, o.RedirectLife} {
		if d < 0 {
			return usageError{fmt.Errorf("%v: a duration can't be negative", d)}
		}
	}
	for _, status := range o.ErrorStatus {
		if status < 400 || status > 599 {
			return usageError{fmt.Errorf("--error-status %d: want 400 to 599", status)}
		}
	}
	if o.StormLength < 1 {
		return usageError{errors.New("--storm must be at least 1")}
	}
	opts := o.Options
	opts.RatePerConnection, opts.Rate, opts.SlowRate = int64(o.perConnection), int64(o.all), int64(o.slow)
	opts.ResetAfter, opts.CloseAfter, opts.StallAfter, opts.FlipEvery = int64(o.reset), int64(o.closing), int64(o.stall), int64(o.flip)
	opts.IgnoreRange, opts.WrongRange, opts.Errors, opts.Slow = float64(o.ignore), float64(o.wrong), float64(o.errors), float64(o.slowPart)
	proxy, err := chaos.NewProxy(o.upstream, opts)
	if err != nil {
		return usageError{err}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return listenError("--listen", o.listen, err)
	}
	printable.Fprintf(s.out, "http://%s\n", l.Addr())
	if err := proxy.Serve(ctx, l); err != nil {
		return err
	}
	raw, err := json.Marshal(proxy.Stats())
	if err != nil {
		return err
	}
	_, err = printable.Fprintf(s.out, "%s\n", raw)
	return err
}

// byteSize is a flag's number of bytes; 0 means never.
type byteSize int64

// Set implements pflag.Value.
func (b *byteSize) Set(s string) error {
	n, err := parseSize(s)
	if err == nil && n < 1 {
		err = errors.New("want at least one byte")
	}
	*b = byteSize(n)
	return err
}

// String implements pflag.Value.
func (b *byteSize) String() string {
	if *b == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Type implements pflag.Value.
func (*byteSize) Type() string { return "size" }

// share is a flag's part of a whole, from 0 to 1.
type share float64

// Set implements pflag.Value.
func (p *share) Set(s string) error {
	text, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(text, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return fmt.Errorf("%q is no share such as 0.05 or 5%%", s)
	}
	*p = share(v)
	return nil
}

// String implements pflag.Value.
func (p *share) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*p), 'g', -1, 64)
}

// Type implements pflag.Value.
func (*share) Type() string { return "share" }
