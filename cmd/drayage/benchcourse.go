package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"drayage/bench"
	"drayage/blobstore"
	"drayage/engine"
	"drayage/engine/event"
	"drayage/engine/history"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/retry"
	"drayage/engine/schedule"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxConnections is how many can be asked for.
const maxConnections = 1024

// check finds what is wrong with the command line as a whole.
func (o *benchOptions) check(args []string) error {
	switch {
	case o.replay != "" && len(args) > 0:
		return usageError{errors.New("--replay takes the place of images: the report names them")}
	case o.replay == "" && len(args) == 0:
		return usageError{errors.New("no images named: give one to measure, or several to compare")}
	case o.from != "" && o.replay == "":
		return usageError{errors.New("--from goes with --replay: name the images at each registry")}
	case o.replay != "" && (o.rate > 0 || o.profile != "" || o.whole || o.given("range")):
		return usageError{errors.New("--replay reads what it did then: --rate, --range, --whole and --profile don't go with it")}
	case o.profile != "" && (o.whole || o.given("range")), o.whole && o.given("range"):
		return usageError{errors.New("--profile, --range and --whole say the same thing: give one")}
	case o.replay != "" && o.given("warm-up"):
		return usageError{errors.New("--warm-up doesn't go with --replay, which begins as the pull began")}
	}
	for _, path := range []string{o.json, o.csv, o.benchstat, o.markdown, o.html} {
		if path == "" || path == "-" {
			continue
		}
		if _, err := os.Stat(filepath.Dir(path)); err != nil { // not found out when all is measured
			return err
		}
	}
	if o.whole {
		o.parts = "whole"
	}
	if !o.given("rounds") {
		o.rounds = 6 // the fewest that an interval, and a difference, take
		if o.replay != "" {
			o.rounds = 1
		}
	}
	if !o.given("warm-up") {
		o.warmUp = o.duration / 10
	}
	switch {
	case o.rounds < 1 || o.duration <= 0 || o.rate < 0:
		return usageError{errors.New("--rounds and --duration must be more than nothing, and --rate not less")}
	case o.warmUp < 0 || o.warmUp >= o.duration:
		return usageError{errors.New("--warm-up must leave some of --duration")}
	case o.verify && o.parts != "whole" && o.replay == "":
		return usageError{errors.New("--verify goes with --whole: a part has no digest")}
	}
	return nil
}

// benchCourse is what bench reads from: targets, and what they need.
type benchCourse struct {
	targets []*bench.Target
	streams int // that a replay had at once
	clients []*registry.Client
	lease   *blobstore.Lease
}

// Close ends what the targets need.
func (c *benchCourse) Close() error {
	for _, client := range c.clients {
		client.Close()
	}
	if c.lease == nil {
		return nil
	}
	return c.lease.Close()
}

// course finds out what to read, over which versions of HTTP, in which parts.
func (o *benchOptions) course(ctx context.Context, args []string, observer event.Observer, d *display) (_ *benchCourse, err error) {
	c := new(benchCourse)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	connections, err := o.numbers()
	if err != nil {
		return nil, err
	}
	versions, err := httpVersions(o.http)
	if err != nil {
		return nil, err
	}
	images, err := o.images(args)
	if err != nil {
		return nil, err
	}
	manners, names, err := o.manners(connections, len(images.refs)*len(versions))
	if err != nil {
		return nil, err
	}
	credentials, err := o.credentials(images.refs)
	if err != nil {
		return nil, err
	}
	if o.store != "" {
		store, err := blobstore.Open(o.store)
		if err != nil {
			return nil, err
		}
		if c.lease, err = store.Lease(); err != nil {
			return nil, err
		}
	}
	perHost := slices.Max(connections)
	if images.replay != nil {
		c.streams = images.replay.streams()
		perHost = max(perHost, c.streams)
	}
	for _, version := range versions {
		const patience = 30 * time.Second
		client, err := o.newClient(credentials, images.refs, retry.Policy{Patience: patience}, observer, d, func(r *registry.Options) {
			r.PerHost, r.HTTP2, r.NeverWait = perHost, version == "2", true
		})
		if err != nil {
			return nil, err
		}
		c.clients = append(c.clients, client)
		ts, err := images.targets(ctx, o, client, manners, names, c.lease)
		if err != nil {
			return nil, err
		}
		for _, t := range ts {
			if len(versions) > 1 {
				t.Name += " over HTTP/" + version
			}
			if version == "2" {
				t.HTTP = version
			}
		}
		c.targets = append(c.targets, ts...)
	}
	if len(versions) > 1 { // what was named first is what the others are held against
		slices.SortStableFunc(c.targets, func(a, b *bench.Target) int { return cmp.Compare(a.HTTP, b.HTTP) })
	}
	return c, nil
}

// options are what to measure.
func (o *benchOptions) options(c *benchCourse) (bench.Options, error) {
	connections, err := o.numbers()
	if err != nil {
		return bench.Options{}, err
	}
	b := bench.Options{Connections: connections, Rate: o.rate, Rounds: o.rounds, Duration: o.duration, Bytes: int64(o.bytes), WarmUp: o.warmUp}
	if o.replay == "" {
		return b, nil
	}
	b.WarmUp = 0
	if !o.given("connections") {
		b.Connections = []int{min(c.streams, maxConnections)}
	}
	// All of it, if no bound was given.
	var bytes int64
	var within time.Duration
	for _, t := range c.targets {
		n, d := t.Reads()
		bytes, within = bytes+n, within+d
	}
	times := o.rounds * len(b.Connections)
	if !o.given("bytes") {
		b.Bytes = bytes * int64(times)
	}
	if !o.given("duration") {
		const tail = time.Minute // for what is under way at the end
		b.Duration = (time.Duration(times) * (within*5/4 + tail)).Round(time.Second)
	}
	return b, nil
}

// numbers are the numbers of connections.
func (o *benchOptions) numbers() ([]int, error) {
	var out []int
	for _, word := range strings.Split(o.connections, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > maxConnections {
			return nil, usageError{fmt.Errorf("--connections %q: want numbers from 1 to %d, such as 1,4,16", o.connections, maxConnections)}
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

func httpVersions(list string) ([]string, error) {
	var out []string
	for _, word := range strings.Split(list, ",") {
		v := strings.TrimSpace(word)
		if v != "1.1" && v != "2" || slices.Contains(out, v) {
			return nil, usageError{fmt.Errorf("--http %q: want 1.1, 2 or 1.1,2", list)}
		}
		out = append(out, v)
	}
	return out, nil
}

// partByDefault is how much is read at once when nobody says: 4 MiB, or what leaves
// each connection some reads in each round.
func (o *benchOptions) partByDefault(connections []int, targets int) int64 {
	const most, least, reads = 4 << 20, 64 << 10, 4
	all := 0
	for _, n := range connections {
		all += n
	}
	part := int64(most)
	for part > least && part*int64(reads*all*o.rounds*max(1, targets)) > int64(o.bytes) {
		part /= 2
	}
	return part
}

// manners are how each image is read, and what each is called when there are several.
func (o *benchOptions) manners(connections []int, targets int) (ms []bench.Manner, names []string, err error) {
	if o.profile != "" {
		mix, err := parseMix(o.profile)
		return []bench.Manner{{Mix: mix}}, []string{""}, err
	}
	if o.parts == "" {
		return []bench.Manner{{Part: o.partByDefault(connections, targets)}}, []string{""}, nil
	}
	words := strings.Split(o.parts, ",")
	for _, word := range words {
		part, err := partSize(word)
		if err != nil {
			return nil, nil, err
		}
		name := ""
		if len(words) > 1 {
			name = " by " + strings.TrimSpace(word)
		}
		ms, names = append(ms, bench.Manner{Part: part, Verify: o.verify}), append(names, name)
	}
	return ms, names, nil
}

// partSize reads a size of parts; 0 is whole layers.
func partSize(word string) (int64, error) {
	if strings.TrimSpace(word) == "whole" {
		return 0, nil
	}
	n, err := parseSize(word)
	if err == nil && n < 1 {
		err = errors.New("want at least one byte")
	}
	if err != nil {
		return 0, usageError{fmt.Errorf("--range: %w", err)}
	}
	return n, nil
}

// parseMix reads a mix of sizes: WEIGHT*SIZE or SIZE, separated by commas, or one a
// line in a file.
func parseMix(text string) (bench.Mix, error) {
	words := strings.Split(text, ",")
	if !strings.ContainsAny(text, ",*") {
		if f, err := os.Open(text); err == nil {
			defer f.Close()
			words = nil
			for lines := bufio.NewScanner(f); lines.Scan(); {
				line, _, _ := strings.Cut(lines.Text(), "#")
				if line = strings.TrimSpace(line); line != "" {
					words = append(words, line)
				}
			}
		}
	}
	var mix bench.Mix
	for _, word := range words {
		weight, text, ok := strings.Cut(word, "*")
		if !ok {
			weight, text = "1", word
		}
		w, errWeight := strconv.ParseFloat(strings.TrimSpace(weight), 64)
		n, err := parseSize(strings.TrimSpace(text))
		const heaviest = 1e9
		if errWeight != nil || err != nil || n < 1 || !(w > 0 && w <= heaviest) {
			return nil, usageError{fmt.Errorf("--profile %q: want sizes with weights, such as 70*64KiB,30*4MiB, or a file with one a line", word)}
		}
		mix = append(mix, bench.Share{Size: n, Weight: w})
	}
	if len(mix) == 0 {
		return nil, usageError{fmt.Errorf("--profile %s has no sizes", text)}
	}
	return mix, nil
}

// benchImages are what to read: images by their names, or a pull that was recorded.
type benchImages struct {
	refs   []reference.Image
	replay *replay
}

func (o *benchOptions) images(args []string) (*benchImages, error) {
	if o.replay == "" {
		var words []named
		for _, a := range args {
			words = append(words, named{word: a})
		}
		refs, bad := parseNames(words)
		if len(bad) > 0 {
			return nil, usageError{bad[0]}
		}
		return &benchImages{refs: refs}, nil
	}
	r, err := readReplay(o.replay, o.from)
	if err != nil {
		return nil, err
	}
	return &benchImages{refs: r.refs(), replay: r}, nil
}

// targets makes a target of each image and manner.
func (x *benchImages) targets(ctx context.Context, o *benchOptions, client *registry.Client, manners []bench.Manner, names []string, lease *blobstore.Lease) ([]*bench.Target, error) {
	if x.replay != nil {
		return x.replay.targets(client, bench.Manner{Verify: o.verify, Disk: lease})
	}
	platform, err := platformOf(o.platform)
	if err != nil {
		return nil, err
	}
	store, err := noStore()
	if err != nil {
		return nil, err
	}
	results, _, err := engine.Plan(ctx, engine.Options{
		Store: store, Registry: client, Platform: platform, Limits: schedule.Limits{Jobs: 1, PerHost: 1},
	}, x.refs)
	if err != nil {
		return nil, err
	}
	if failed := engine.Failures(results); len(failed) > 0 {
		return nil, failures(failed)
	}
	var out []*bench.Target
	for _, r := range results {
		for i, m := range manners {
			m.Disk = lease
			t, err := bench.NewTarget(r.Ref.String()+names[i], r.Image.Target().Digest, r.Image.Main().Layers, func(d digest.Digest) *registry.Blob {
				return client.Blob(r.Ref, d)
			}, m)
			if err != nil {
				return nil, err
			}
			out = append(out, t)
		}
	}
	return out, nil
}

// replay is a pull that was recorded, and the registries to ask now.
type replay struct {
	blobs []history.Blob
	from  []string // registries, "" for those of then
	at    [][]reference.Image
}

func readReplay(path, from string) (*replay, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--replay: %w", err)
	}
	defer f.Close()
	p, err := history.Read(f)
	if err != nil {
		return nil, usageError{fmt.Errorf("--replay %s: %w", path, err)}
	}
	r := &replay{from: []string{""}}
	if from != "" {
		r.from = strings.Split(from, ",")
	}
	for _, b := range p.Blobs {
		if b.Received > 0 && b.Error == "" {
			r.blobs = append(r.blobs, b)
		}
	}
	for i, name := range r.from {
		if name = strings.TrimSpace(name); name != "" {
			if name, err = registry.ParseName(name); err != nil {
				return nil, usageError{fmt.Errorf("--from: %w", err)}
			}
			r.from[i] = name
		}
		var refs []reference.Image
		for _, b := range r.blobs {
			ref, err := reference.Parse(b.Image)
			if err == nil && name != "" {
				ref, err = reference.Parse(name + "/" + ref.Repository())
			}
			if err != nil {
				return nil, usageError{fmt.Errorf("--replay %s: %w", path, err)}
			}
			refs = append(refs, ref)
		}
		r.at = append(r.at, refs)
	}
	if len(r.blobs) == 0 {
		return nil, usageError{fmt.Errorf("--replay %s: nothing came over the network in it", path)}
	}
	return r, nil
}

func (r *replay) refs() []reference.Image { return slices.Concat(r.at...) }

// streams is how many blobs were under way at once.
func (r *replay) streams() int {
	most := 1
	for _, a := range r.blobs { // the most are under way when one has just begun
		n := 0
		for _, b := range r.blobs {
			if b.Start <= a.Start && a.Start < b.Start+b.Elapsed {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// targets makes one for each registry.
func (r *replay) targets(client *registry.Client, m bench.Manner) ([]*bench.Target, error) {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	first := r.blobs[0].Start
	var out []*bench.Target
	for i, name := range r.from {
		if name == "" {
			name = "as it was"
		}
		var reads []bench.Read
		for j, b := range r.blobs {
			reads = append(reads, bench.Read{
				Due: seconds(b.Start - first), Took: seconds(b.Elapsed), From: b.Resumed,
				Blob: ocispec.Descriptor{Digest: b.Digest, Size: b.Size}, Source: client.Blob(r.at[i][j], b.Digest),
			})
		}
		t, err := bench.NewReplay(name, reads, m)
		if err != nil {
			return nil, usageError{err}
		}
		out = append(out, t)
	}
	return out, nil
}
