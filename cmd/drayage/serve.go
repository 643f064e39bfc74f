package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/blobstore/quota"
	"drayage/cmd/drayage/internal/build"
	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/conns"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/listen"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/password"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/refusal"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/stores"
	"drayage/cmd/drayage/internal/units"
	"drayage/cmd/drayage/internal/upstream"
	"drayage/cmd/drayage/internal/warmer"
	"drayage/cmd/drayage/internal/web"
	"drayage/engine"
	"drayage/engine/cpulimit"
	"drayage/engine/event"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	limiting "golang.org/x/time/rate"
)

// serveOptions are the flags of serve, as given.
type serveOptions struct {
	net        network.Flags
	show       display.Flags
	dir        string
	listen     string
	tlsCert    string
	tlsKey     string
	htpasswd   string
	private    []string
	through    string
	fresh      time.Duration
	registry   string
	toUpstream connectionLimits
	patience   time.Duration
	noSync     bool

	connections int
	perClient   int
	requests    float64
	ownRequests bool // it was given
	clientRate  units.ByteRate
	clientUp    int
	upstreams   int
	allowed     []string
	budget      units.Size
	log         string
	audit       string
	pprof       string
	drain       time.Duration
}

func serveCommand(s process.Streams) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Serve the store as a read-only registry",
		Long: `Serve the store as a read-only registry or mirror for Docker, containerd, Podman
and other clients; docs/serve.md shows how to set them up. With --pull-through,
images that the store doesn't have are fetched from the registries named, and
sent to clients while they arrive, each blob once for all clients. A tag is
served from the store for --fresh, then checked upstream by HEAD; while upstream
is unavailable, the stored image is served and marked as stale.

A page for people is at /, metrics for Prometheus at /metrics, health checks at
/healthz and /readyz. Credentials for upstream are those of pull, and are never
sent to clients.

It listens on loopback unless --listen says otherwise, and then answers requests
for localhost and loopback addresses only, unless --allow-host adds names.
SIGTERM lets requests under way complete, within --drain. Under systemd it takes
its sockets, and reports when it is ready.`,
		Example: `  drayage serve
  drayage serve --listen :5000 --tls-cert cert.pem --tls-key key.pem --htpasswd users
  drayage serve --pull-through docker.io,ghcr.io --fresh 1h --budget 500GiB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.ownRequests = cmd.Flags().Changed("client-requests")
			return runServe(cmd.Context(), s, o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.listen, "listen", "127.0.0.1:5000", "listen on `HOST:PORT`")
	stores.AddFlag(cmd.Flags(), &o.dir)
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate `FILE` for HTTPS")
	f.StringVar(&o.tlsKey, "tls-key", "", "private key `FILE` for HTTPS")
	f.StringVar(&o.htpasswd, "htpasswd", "", "require a login listed in `FILE` (htpasswd -B)")
	f.StringArrayVar(&o.private, "private", nil, "serve `REGISTRY[/PREFIX]=USER[,USER...]` to these users only (repeatable)")
	f.StringVar(&o.through, "pull-through", "", "fetch missing images from `REGISTRIES`, e.g. docker.io,ghcr.io")
	f.DurationVar(&o.fresh, "fresh", 5*time.Minute, "check a tag upstream after `DUR`")
	f.StringVar(&o.registry, "default-registry", "docker.io", "`REGISTRY` of image names without one")
	o.toUpstream.add(f, "upstream ")
	f.DurationVar(&o.patience, "give-up-after", 30*time.Second, "report a failure after `DUR` without a byte from upstream")
	f.BoolVar(&o.noSync, "no-sync", false, "don't wait for the disk; a power cut may damage the store")
	f.StringArrayVar(&o.allowed, "allow-host", nil, "answer requests for host `NAME`, * for any (repeatable)")
	f.IntVar(&o.connections, "max-connections", 4096, "maximum connections `N` (0: no limit)")
	f.IntVar(&o.perClient, "max-per-client", 256, "maximum connections `N` per address (0: no limit)")
	f.Float64Var(&o.requests, "client-requests", defaultRequests, "maximum requests `N` per second and address (0: no limit)")
	f.IntVar(&o.clientUp, "client-upstream", 32, "maximum upstream blobs `N` per address (0: no limit)")
	f.IntVar(&o.upstreams, "max-upstream", 256, "maximum upstream blobs `N` at once (0: no limit)")
	f.Var(&o.clientRate, "client-rate", "limit `RATE` in bytes per second and address (default: no limit)")
	f.Var(&o.budget, "budget", "disk quota `SIZE`; unused images are deleted (default: no limit)")
	f.StringVar(&o.log, "access-log", "", "log requests to `FILE`, - for standard output")
	f.StringVar(&o.audit, "audit-log", "", "log refusals to `FILE`, - for standard output")
	f.StringVar(&o.pprof, "pprof", "", "serve profiles of the program on `HOST:PORT`")
	f.DurationVar(&o.drain, "drain", 30*time.Second, "let requests under way complete within `DUR`")
	o.net.Add(f)
	o.show.Add(f)
	return cmd
}

// Requests of one address a second, and at once, unless a flag says otherwise: a node that pulls
// hundreds of images side by side stays below both.
const (
	defaultRequests = 200
	defaultBurst    = 2000
)

// check finds what is wrong with the command line as a whole.
func (o *serveOptions) check() error {
	for _, f := range []struct {
		flag  string
		value float64
	}{
		{"--max-connections", float64(o.connections)}, {"--max-per-client", float64(o.perClient)}, {"--client-requests", o.requests},
		{"--client-upstream", float64(o.clientUp)}, {"--max-upstream", float64(o.upstreams)},
	} {
		if f.value < 0 {
			return status.Misuse(fmt.Errorf("%s must not be negative; 0 means no limit", f.flag))
		}
	}
	switch {
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return status.Misuse(errors.New("--tls-cert and --tls-key must be used together"))
	case len(o.private) > 0 && o.htpasswd == "":
		return status.Misuse(errors.New("--private requires --htpasswd"))
	case o.fresh < 0 || o.drain < 0 || o.patience <= 0:
		return status.Misuse(errors.New("--fresh and --drain must not be negative, and --give-up-after must be positive"))
	}
	return nil
}

// serving is what a run of serve has.
type serving struct {
	o           *serveOptions
	upstreams   []string // registries' names
	private     *mirror.Private
	dir         string
	display     *display.Display
	conf        *tls.Config         // nil for plain HTTP
	certificate *listen.Certificate // as conf
	work        *cpulimit.Limit
	passwords   *password.Passwords // nil lets everybody in
	store       *blobstore.Store
	budget      *quota.Quota // nil for none
	metrics     *web.Metrics
	transfers   *web.Transfers
	log         *slog.Logger // nil for none
	refusals    *refusal.Log
}

func runServe(ctx context.Context, s process.Streams, o serveOptions) (err error) {
	r := &serving{o: &o}
	if err := r.parse(); err != nil {
		return err
	}
	o.show.Calm()
	if r.display, err = o.show.Start(s); err != nil {
		return err
	}
	defer r.display.Close()
	if err := r.open(s); err != nil {
		return err
	}
	log, audit, closeLogs, err := o.logs(s)
	if err != nil {
		return err
	}
	r.log, r.refusals = log, refusal.NewLog(audit, r.warn)
	defer func() {
		r.refusals.Close()
		err = errors.Join(err, closeLogs())
	}()
	answers, done, err := r.mirror(ctx)
	if err != nil {
		return err
	}
	defer done()
	o.fitFiles(r.warn)
	ls, err := listen.Open(ctx, o.listen)
	if err != nil {
		return err
	}
	hosts, err := o.hosts(ls)
	if err != nil {
		return errors.Join(err, listen.Close(ls))
	}
	closing, endStreams := context.WithCancel(context.Background())
	defer endStreams()
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := conns.New(conns.Options{
		Handler: r.handler(answers, hosts, closing.Done()), TLS: r.conf, Base: requests,
		Bounds: conns.Bounds{All: o.connections, PerClient: o.perClient}, Refusals: r.refusals,
	})
	server.RegisterOnShutdown(endStreams)
	defer r.watch(ctx)()
	s.Ending.AllowDraining(o.drain + 5*time.Second)
	return o.run(ctx, r.store, r.budget, server, ls, r.display, cancel)
}

func (r *serving) warn(message string) { r.display.Observe(event.Warned{Message: message}) }

// parse checks what the flags say.
func (r *serving) parse() (err error) {
	o := r.o
	if err := o.check(); err != nil {
		return err
	}
	if r.upstreams, err = registries(o.through); err != nil {
		return err
	}
	if o.registry, err = hosts.ParseName(o.registry); err != nil {
		return status.Misuse(fmt.Errorf("--default-registry: %w", err))
	}
	if r.private, err = o.privacy(); err != nil {
		return err
	}
	r.dir, err = stores.Dir(o.dir)
	return err
}

// open reads the files that the flags name, and opens the store.
func (r *serving) open(s process.Streams) (err error) {
	o := r.o
	if r.conf, r.certificate, err = o.serverTLS(); err != nil {
		return err
	}
	r.work = cpulimit.New()
	sharePrecisely()
	if o.htpasswd != "" {
		if r.passwords, err = password.Read(o.htpasswd, r.work); err != nil {
			return status.Misuse(fmt.Errorf("--htpasswd: %w", err))
		}
	}
	if r.store, err = blobstore.OpenWith(r.dir, blobstore.Options{Disk: s.Disk, NoSync: o.noSync}); err != nil {
		return err
	}
	if o.budget > 0 {
		r.budget = quota.New(r.store, int64(o.budget), func() (func(string) bool, error) { return warmer.Pins(r.store) })
	}
	r.metrics = web.NewMetrics()
	r.transfers = web.NewTransfers(r.metrics)
	return nil
}

// mirror answers from the store and, if there are any, from upstream registries. done ends what
// comes from there.
func (r *serving) mirror(ctx context.Context) (answers *mirror.Handler, done func(), err error) {
	m := mirror.Options{Store: r.store, Registry: r.o.registry, Served: r.metrics.Served, Private: r.private, Refused: refusal.Refused}
	if len(r.upstreams) == 0 {
		return mirror.New(m), func() {}, nil
	}
	bounds := upstream.New(r.o.clientUp, r.o.upstreams)
	through, done, err := r.o.upstream(ctx, r.store, r.budget, r.work, r.upstreams, event.Observers{r.display, r.transfers, bounds}, r.display)
	if err != nil {
		return nil, nil, err
	}
	m.Upstream, m.Allowed = bounds.Of(through), func(registry string) bool { return slices.Contains(r.upstreams, registry) }
	answers = mirror.New(m)
	if r.private != nil {
		through.Withheld = answers.Withheld
	}
	return answers, done, nil
}

// handler answers all requests, until closing those that last.
func (r *serving) handler(answers *mirror.Handler, hosts *web.Hosts, closing <-chan struct{}) http.Handler {
	return web.Handler(web.Options{
		Store: r.store, Mirror: answers, Private: r.private, Passwords: r.passwords, Log: r.log, Metrics: r.metrics, Transfers: r.transfers, Budget: int64(r.o.budget),
		Limits: r.o.limits(),
		Hosts:  hosts, Refusals: r.refusals,
		Groups:  func() []web.Group { return warmer.Groups(r.store) },
		Fresh:   func() map[string]web.Freshness { return warmer.Freshness(r.store) },
		Version: build.Version(), Closing: closing,
		Fault: r.warn,
	})
}

// watch reads files of passwords and certificates again when they change, until stop, which waits
// for that to end.
func (r *serving) watch(ctx context.Context) (stop func()) {
	watching, stopWatching := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	if r.passwords != nil {
		watchers.Go(func() { r.passwords.Watch(watching, r.warn) })
	}
	if r.certificate != nil {
		watchers.Go(func() { r.certificate.Watch(watching, r.warn) })
	}
	return func() { stopWatching(); watchers.Wait() }
}

// privacy is who may see what; nil is everybody all.
func (o *serveOptions) privacy() (*mirror.Private, error) {
	if len(o.private) == 0 {
		return nil, nil
	}
	p, err := mirror.ParsePrivate(o.private)
	if err != nil {
		return nil, status.Misuse(fmt.Errorf("--private: %w", err))
	}
	return p, nil
}

// fitFiles has no more connections than files may be open for: each has one, and one that it sends,
// and there is a reserve. Without a file left, nobody would be answered.
func (o *serveOptions) fitFiles(warn func(string)) {
	const (
		others = 192 // files: of the store and upstream
		each   = 3
		fewest = 16
	)
	files, ok := mostFiles()
	if !ok {
		return
	}
	fit := max(fewest, (files-others)/each)
	if o.connections > 0 && o.connections <= fit {
		return
	}
	if o.connections > 0 {
		warn(fmt.Sprintf("--max-connections is %d instead of %d: only %d files may be open (ulimit -n)", fit, o.connections, files))
	}
	o.connections = fit
}

// limits are what one address may take. The default for requests is not for this machine: what
// comes from there may be a proxy, with the requests of many.
func (o *serveOptions) limits() client.RateLimits {
	l := client.RateLimits{Requests: limiting.Limit(o.requests), Bytes: o.clientRate.Limit()}
	if !o.ownRequests {
		l.Burst, l.FreeLoopback = defaultBurst, true
	}
	return l
}

// hosts are the names by which clients may ask for it. What only this machine can connect to is
// asked for by this machine's names, unless others are given.
func (o *serveOptions) hosts(ls []net.Listener) (*web.Hosts, error) {
	loopback := true
	for _, l := range ls {
		loopback = loopback && listen.IsLoopback(l.Addr())
	}
	names := o.allowed
	if host, _, err := net.SplitHostPort(o.listen); loopback && err == nil && host != "" {
		names = append([]string{host}, names...) // which stands for this machine here, whatever it is
	}
	hosts, err := web.NewHosts(names, loopback)
	if err != nil {
		return nil, status.Misuse(fmt.Errorf("--allow-host: %w", err))
	}
	return hosts, nil
}

// sharePrecisely has the kernel, and not the runtime, share out the processors between what is
// worked out for some and what others wait for: the runtime looks for what has arrived from the
// network only every 10 ms while all that it may use is busy, at each step of an answer. With all
// attacks of bench/internal/siege on 2 processors that makes a third of the time of the slowest answers.
func sharePrecisely() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2*runtime.GOMAXPROCS(0) + 2)
	}
}

// registries reads a list of registries' names.
func registries(list string) ([]string, error) {
	var out []string
	for _, word := range strings.Split(list, ",") {
		if word = strings.TrimSpace(word); word == "" {
			continue
		}
		name, err := hosts.ParseName(word)
		if err != nil {
			return nil, status.Misuse(fmt.Errorf("--pull-through: %w", err))
		}
		out = append(out, name)
	}
	return out, nil
}

// serverTLS is how HTTPS is spoken, and by what certificate; nil for plain HTTP.
func (o *serveOptions) serverTLS() (*tls.Config, *listen.Certificate, error) {
	if o.tlsCert == "" {
		return nil, nil, nil
	}
	reload, err := listen.ReadCertificate(o.tlsCert, o.tlsKey)
	if err != nil {
		return nil, nil, status.Misuse(fmt.Errorf("--tls-cert and --tls-key: %w", err))
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: reload.Get, NextProtos: []string{"h2", "http/1.1"}}, reload, nil
}

// logs are where requests and refusals are logged, nil for nowhere. Refusals are logged with
// requests, unless they have a log of their own.
func (o *serveOptions) logs(s process.Streams) (access, audit *slog.Logger, done func() error, err error) {
	access, done, err = openLog(s, "--access-log", o.log)
	if err != nil || o.audit == "" || o.audit == o.log {
		return access, access, done, err
	}
	audit, doneToo, err := openLog(s, "--audit-log", o.audit)
	if err != nil {
		return nil, nil, nil, errors.Join(err, done())
	}
	return access, audit, func() error { return errors.Join(done(), doneToo()) }, nil
}

// openLog opens a log, nil for none.
func openLog(s process.Streams, flag, name string) (*slog.Logger, func() error, error) {
	var w io.Writer
	done := func() error { return nil }
	switch name {
	case "":
		return nil, done, nil
	case "-": // whoever reads it may be slow, which is nothing to clients
		p := progress.NewPatient(s.Out, func(left int) []byte { return display.LeftOut(left, false) })
		w, done = p, func() error { p.Flush(); return nil }
	default:
		f, err := durable.OpenLog(name, 0o644)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", flag, err)
		}
		w, done = f, f.Close
	}
	return slog.New(slog.NewTextHandler(w, nil)), done, nil
}

// upstream is what brings blobs that the store doesn't have.
func (o *serveOptions) upstream(ctx context.Context, store *blobstore.Store, budget *quota.Quota, work *cpulimit.Limit, upstreams []string, observer event.Observer, d *display.Display) (*engine.PullThrough, func(), error) {
	var refs []reference.Image // one of each registry
	for _, name := range upstreams {
		ref, err := reference.Parse(name + "/x")
		if err != nil {
			return nil, nil, status.Misuse(err)
		}
		refs = append(refs, ref)
	}
	credentials, err := o.net.Credentials(refs)
	if err != nil {
		return nil, nil, err
	}
	policy := engine.Retry{Patience: o.patience}
	// Together they have no more connections to a host than --per-host says.
	limits := o.toUpstream.limits().Resolved()
	perHost := limits.PerHost
	forManifests := max(1, perHost/4)
	limits.PerHost = max(1, perHost-forManifests)
	client, err := o.net.NewClient(credentials, refs, policy, observer, d, func(r *registry.Options) { r.PerHost, r.Work = limits.PerHost, work })
	if err != nil {
		return nil, nil, err
	}
	manifests := client // which wait for blobs when there is but one connection
	if perHost > 1 {
		if manifests, err = o.net.NewClient(credentials, refs, policy, observer, d, func(r *registry.Options) { r.PerHost, r.Work = forManifests, work }); err != nil {
			return nil, nil, err
		}
	}
	through := engine.NewPullThrough(context.WithoutCancel(ctx), engine.Options{
		Store: store, Budget: budget, Work: work, Registry: client, Observer: observer, Retry: policy, Limits: limits, PeerStall: o.net.Stall / 5,
	}, manifests, o.fresh)
	return through, func() { through.Close(); client.Close(); manifests.Close() }, nil
}

// run serves until ctx is done, and then until what is under way has ended. cancel ends that.
func (o *serveOptions) run(ctx context.Context, store *blobstore.Store, budget *quota.Quota, server *conns.Server, ls []net.Listener, d *display.Display, cancel func()) error {
	profiles, err := listen.Pprof(ctx, o.pprof, func(message string) { d.Observe(event.Warned{Message: message}) })
	if err != nil {
		return errors.Join(err, listen.Close(ls))
	}
	served := make(chan error, len(ls))
	for _, l := range ls {
		scheme := "http"
		if o.tlsCert != "" {
			scheme = "https"
		}
		if !o.show.Quiet {
			d.Say("", fmt.Sprintf("serving %s at %s://%s", store.Dir(), scheme, l.Addr()))
		}
		go func() { served <- server.Serve(l) }()
	}
	swept := make(chan struct{})
	sweeping, stopSweeping := context.WithCancel(ctx)
	go func() { defer close(swept); keepBudget(sweeping, budget, d) }()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // false where there is no systemd
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case err = <-served:
		served <- err
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	stopSweeping()
	<-swept
	draining, stop := context.WithTimeout(context.WithoutCancel(ctx), o.drain)
	defer stop()
	if server.Shutdown(draining) != nil { // some took too long
		cancel()
		err = errors.Join(err, server.Close())
	}
	if profiles != nil {
		err = errors.Join(err, profiles.Close())
	}
	for range ls {
		if e := <-served; !errors.Is(e, http.ErrServerClosed) && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	var sig status.SignalError
	if errors.As(err, &sig) { // to end when told to is what it is for
		return nil
	}
	return err
}

// keepBudget sweeps the store now and then when it is over its budget.
func keepBudget(ctx context.Context, budget *quota.Quota, d *display.Display) {
	if budget == nil {
		return
	}
	const often = time.Minute
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		if err := budget.Keep(ctx); err != nil && ctx.Err() == nil {
			d.Observe(event.Warned{Message: "keeping the budget: " + err.Error()})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
