// Package warm keeps chosen images fresh in a store, on a schedule: what to keep, when to
// look, how fast to fetch, what to drop. It fetches nothing by itself.
package warm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/robfig/cron/v3"
	"go.yaml.in/yaml/v3"
)

// Config is what a file says: docs/warm.md.
type Config struct {
	Store  string `yaml:"store"`
	Budget Budget `yaml:"budget"`
	// Windows are when to fetch, and how fast: 22:00-06:00: 50MiB/s, else: off.
	Windows  Windows  `yaml:"windows"`
	Timezone Timezone `yaml:"timezone"`
	Hooks    Hooks    `yaml:"hooks"`
	Groups   []Group  `yaml:"groups"`
}

// Budget is what the store may take: when it is over High, images go until it is not
// over Low. Sizes are bytes; 0 is no bound.
type Budget struct{ High, Low int64 }

// Group is images that are kept fresh together.
type Group struct {
	Name      string     `yaml:"name"`
	Images    []Selector `yaml:"images"`
	Platforms []Platform `yaml:"platforms"`
	Referrers bool       `yaml:"referrers"`
	// Schedule and Every say when to look; one of them.
	Schedule Cron      `yaml:"schedule"`
	Every    Duration  `yaml:"every"`
	Jitter   Duration  `yaml:"jitter"`
	FinishBy TimeOfDay `yaml:"finish_by"`
	Keep     Keep      `yaml:"keep"`
	// ReadyFile, if not "", is a file that is there as long as all of the group is
	// complete and fresh.
	ReadyFile string `yaml:"ready_file"`
}

// Selector is an image by its name, or the newest tags of a repository that match a
// pattern.
type Selector struct {
	Image   string
	Tags    string // a pattern in which * is anything
	Exclude string // a pattern; what matches it is left out
	Newest  int    // how many; 0 is all
}

// Keep says what becomes of images that a group selects no more.
type Keep struct {
	Age    Duration `yaml:"age"`    // how long they stay then; 0 is until the budget needs their space
	Pinned bool     `yaml:"pinned"` // the images that it selects stay whatever the budget says
}

// Hooks are told of what happens.
type Hooks struct {
	Fresh  []Hook `yaml:"fresh"`  // an image has changed, and is complete
	Failed []Hook `yaml:"failed"` // an image could not be had
	Round  []Hook `yaml:"round"`  // a round has ended
}

// Hook is a command, which gets what happened as JSON on its standard input, or a URL,
// which gets it by POST.
type Hook struct {
	Command []string `yaml:"command"`
	URL     string   `yaml:"url"`
}

// Windows are times of the day with the bytes a second that may be fetched in them.
type Windows struct {
	List []Window
	Else Rate // outside of all; without any windows there is no bound
}

// Window is from one time of the day to another, perhaps over midnight.
type Window struct {
	From, To TimeOfDay
	Rate     Rate
}

// Rate is bytes a second; off is not at all, and unbound without a bound.
type Rate int64

// The rates that are none.
const (
	unbound Rate = 0
	off     Rate = -1
)

// TimeOfDay is minutes since midnight, plus 1; 0 is none.
type TimeOfDay int

// Duration is one with days: 30d, 12h.
type Duration time.Duration

// Timezone is where days begin. The zero value is this machine's.
type Timezone struct{ *time.Location }

// Cron is a schedule.
type Cron struct{ cron.Schedule }

// Platform is one that is wanted.
type Platform struct{ image.Platform }

// Load reads a file's content. Errors tell the line.
func Load(in io.Reader) (*Config, error) {
	var c Config
	raw, err := io.ReadAll(io.LimitReader(in, limits.WarmBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > limits.WarmBytes {
		return nil, fmt.Errorf("it is larger than %d MiB", limits.WarmBytes>>20)
	}
	if n := marks(raw); n > limits.WarmValues {
		return nil, fmt.Errorf("too many values: %d marks such as \"-\" and \":\" (maximum %d)", n, limits.WarmValues)
	}
	if err := checkMappings(raw); err != nil {
		return nil, err
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, tidy(err)
	}
	var more any
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	return &c, c.check()
}

// marks is at least how many values a file can have: each needs one of the
// characters that begin or end one. Decoding takes memory by their number, and
// for some that stand alone time by its square.
func marks(raw []byte) (n int) {
	for _, c := range raw {
		switch c {
		case '-', ':', '?', ',', '[', '{', '&', '*', '!', '|', '>':
			n++
		}
	}
	return n
}

// checkMappings refuses mappings of more fields than any has here: to find the
// duplicates among n of them takes time by n squared.
func checkMappings(raw []byte) error {
	const most = 100
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return tidy(err)
	}
	for todo := []*yaml.Node{&document}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], n.Content...)
		if n.Kind == yaml.MappingNode && len(n.Content) > 2*most {
			return fmt.Errorf("line %d: a mapping with more than %d fields", n.Line, most)
		}
	}
	return nil
}

var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	typeName     = regexp.MustCompile(` in type \S+`)
)

// tidy makes an error of the library one line, without names of this program's types.
func tidy(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	text = typeName.ReplaceAllString(unknownField.ReplaceAllString(text, "unknown field $1"), "")
	const most = 10 // a file can have thousands of mistakes
	var lines []string
	for l := range strings.Lines(text) {
		if len(lines) == most {
			lines = append(lines, "and more")
			break
		}
		lines = append(lines, strings.TrimSpace(l))
	}
	return errors.New(strings.Join(lines, "; "))
}

// check finds what is wrong with it as a whole.
func (c *Config) check() error {
	if len(c.Groups) == 0 {
		return errors.New("it has no groups")
	}
	names := make(map[string]bool)
	for i := range c.Groups {
		g := &c.Groups[i]
		if g.Name == "" || strings.ContainsAny(g.Name, "/\\\n ") {
			return fmt.Errorf("group %d: a name without spaces and slashes is required", i+1)
		}
		if names[g.Name] {
			return fmt.Errorf("group %s is defined twice", g.Name)
		}
		names[g.Name] = true
		switch {
		case len(g.Images) == 0:
			return fmt.Errorf("group %s has no images", g.Name)
		case g.Schedule.Schedule == nil && g.Every == 0:
			return fmt.Errorf("group %s: schedule or every is required", g.Name)
		case g.Schedule.Schedule != nil && g.Every != 0:
			return fmt.Errorf("group %s: schedule and every exclude each other", g.Name)
		case g.Every != 0 && time.Duration(g.Every) < time.Minute:
			return fmt.Errorf("group %s: every must be at least a minute", g.Name)
		}
	}
	if c.Windows.closed() {
		return errors.New("windows: all are off; nothing could be downloaded")
	}
	for _, hooks := range [][]Hook{c.Hooks.Fresh, c.Hooks.Failed, c.Hooks.Round} {
		for _, h := range hooks {
			if (len(h.Command) == 0) == (h.URL == "") {
				return errors.New("hooks: each must be a command or a url")
			}
		}
	}
	return nil
}

// closed reports whether fetching is never allowed.
func (w Windows) closed() bool {
	return w.Else == off && !slices.ContainsFunc(w.List, func(x Window) bool { return x.Rate != off })
}

// selects is what a group selects, as text: when it changes, the group is looked at.
func (g *Group) selects() string {
	var b strings.Builder
	for _, s := range g.Images {
		fmt.Fprintf(&b, "%s|%s|%s|%d\n", s.Image, s.Tags, s.Exclude, s.Newest)
	}
	for _, p := range g.Platforms {
		b.WriteString(p.String() + "\n")
	}
	fmt.Fprintf(&b, "%v\n", g.Referrers)
	return fmt.Sprintf("%x", sha256.Sum256([]byte(b.String())))[:16]
}

func at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...))
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Selector) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		s.Image = n.Value
		ref, err := reference.Parse(n.Value)
		if err == nil && ref.Digest() != "" && ref.Tag() == "" {
			return at(n, "%s: an image by its digest alone can't get fresher: give it a tag, too", n.Value)
		}
		if err != nil {
			return at(n, "%v", err)
		}
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return at(n, "want an image's name, or a repository with tags")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch key.Value {
		case "repository":
			s.Image = value.Value
		case "tags":
			s.Tags = value.Value
		case "exclude":
			s.Exclude = value.Value
		case "newest":
			v, err := strconv.Atoi(value.Value)
			if err != nil || v < 1 {
				return at(value, "newest: want a number from 1 on")
			}
			s.Newest = v
		default:
			return at(key, "unknown field %s", key.Value)
		}
	}
	if s.Tags == "" {
		s.Tags = "*"
	}
	for _, p := range []string{s.Tags, s.Exclude} {
		if _, err := path.Match(p, ""); err != nil {
			return at(n, "%q is no pattern", p)
		}
	}
	ref, err := reference.Parse(s.Image)
	if err != nil || ref.Digest() != "" || strings.HasSuffix(s.Image, ":"+ref.Tag()) {
		return at(n, "repository %q: want a repository without a tag", s.Image)
	}
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (b *Budget) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		size, err := units.ParseSize(n.Value)
		if err != nil {
			return at(n, "budget: %v", err)
		}
		const share = 0.9
		b.High, b.Low = size, int64(share*float64(size))
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return at(n, "budget: want a size, or high and low")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		size, err := units.ParseSize(value.Value)
		if err != nil {
			return at(value, "%s: %v", key.Value, err)
		}
		switch key.Value {
		case "high":
			b.High = size
		case "low":
			b.Low = size
		default:
			return at(key, "unknown field %s", key.Value)
		}
	}
	if b.Low > b.High || b.High <= 0 || b.Low <= 0 {
		return at(n, "budget: want low and high, and low not over high")
	}
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (w *Windows) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return at(n, "windows: want times with rates, such as 22:00-06:00: 50MiB/s")
	}
	w.Else = off
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		rate, err := parseRate(value.Value)
		if err != nil {
			return at(value, "windows: %v", err)
		}
		if key.Value == "else" {
			w.Else = rate
			continue
		}
		from, to, ok := strings.Cut(key.Value, "-")
		a, errA := parseTime(from)
		b, errB := parseTime(to)
		if !ok || errA != nil || errB != nil || a == b {
			return at(key, "windows: %q is no time such as 22:00-06:00", key.Value)
		}
		w.List = append(w.List, Window{a, b, rate})
	}
	return nil
}

func parseRate(text string) (Rate, error) {
	switch text {
	case "off", "false": // off is a word for false in YAML
		return off, nil
	case "full", "unlimited":
		return unbound, nil
	}
	n, err := units.ParseRate(text)
	if err != nil {
		return 0, fmt.Errorf("invalid rate %q; examples: 50MiB/s, full, off", text)
	}
	return Rate(n), nil
}

func parseTime(text string) (TimeOfDay, error) {
	var h, m int
	text = strings.TrimSpace(text)
	if _, err := fmt.Sscanf(text, "%2d:%2d", &h, &m); err != nil || len(text) != 5 || h < 0 || m < 0 || h > 24 || m > 59 || h == 24 && m > 0 {
		return 0, fmt.Errorf("invalid time %q; example: 05:30", text)
	}
	return TimeOfDay(60*h+m) + 1, nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *TimeOfDay) UnmarshalYAML(n *yaml.Node) error {
	v, err := parseTime(n.Value)
	if err != nil {
		return at(n, "%v", err)
	}
	*t = v
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := units.ParseDuration(n.Value)
	if err != nil {
		return at(n, "%v", err)
	}
	if v == 0 {
		return at(n, "%q must be positive, e.g. 30d or 12h", n.Value)
	}
	*d = Duration(v)
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *Timezone) UnmarshalYAML(n *yaml.Node) error {
	l, err := time.LoadLocation(n.Value)
	if err != nil || n.Value == "" {
		return at(n, "timezone: %q is not known", n.Value)
	}
	t.Location = l
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (c *Cron) UnmarshalYAML(n *yaml.Node) error {
	s, err := parseCron(n.Value)
	if err != nil {
		return at(n, "schedule: %q is no cron expression such as 0 3 * * *", n.Value)
	}
	if s.Next(time.Now()).IsZero() {
		return at(n, "schedule: %q never comes", n.Value)
	}
	c.Schedule = s
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Platform) UnmarshalYAML(n *yaml.Node) error {
	v, err := image.ParsePlatform(n.Value)
	if err != nil {
		return at(n, "%v", err)
	}
	p.Platform = v
	return nil
}

// location is where days begin.
func (c *Config) location() *time.Location {
	if c.Timezone.Location == nil {
		return time.Local
	}
	return c.Timezone.Location
}

// choose picks of a repository's tags those that a selector wants, the newest first.
func (s Selector) choose(tags []string) []string {
	tags = slices.DeleteFunc(slices.Clone(tags), func(t string) bool {
		in, _ := path.Match(s.Tags, t)
		out := signature.MatchString(t)
		if s.Exclude != "" {
			out, _ = path.Match(s.Exclude, t)
		}
		return !in || out
	})
	slices.SortFunc(tags, func(a, b string) int { return compareTags(b, a) })
	if s.Newest > 0 && len(tags) > s.Newest {
		tags = tags[:s.Newest]
	}
	return tags
}

// signature is the form of the tags that cosign gives to what it has to say of an image.
var signature = regexp.MustCompile(`^sha256-[0-9a-f]{64}(\.|$)`)

// compareTags orders tags as versions: numbers by their value, and what has a suffix
// such as -rc1 before what hasn't. What is no version is before all that are.
func compareTags(a, b string) int {
	if c := compareVersions(a, b); c != 0 {
		return c
	}
	return strings.Compare(a, b) // 1.01 and 1.1 are the same version, and two tags
}

func compareVersions(a, b string) int {
	a, b = strings.TrimPrefix(a, "v"), strings.TrimPrefix(b, "v")
	if x, y := isVersion(a), isVersion(b); x != y {
		if x {
			return 1
		}
		return -1
	}
	for a != "" && b != "" {
		x, restA := cutRun(a)
		y, restB := cutRun(b)
		if c := compareRuns(x, y); c != 0 {
			return c
		}
		a, b = restA, restB
	}
	if a == b {
		return 0
	}
	if a == "" {
		return suffix(b)
	}
	return -suffix(a)
}

// suffix is how a tag compares with one that has more after it: a suffix makes it older,
// another number newer.
func suffix(rest string) int {
	if isSuffix(rest) {
		return 1
	}
	return -1
}

func isSuffix(rest string) bool { return strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "_") }

func isVersion(tag string) bool { return tag != "" && isDigit(tag[0]) }

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// cutRun cuts a run of digits, or of others, off the front.
func cutRun(s string) (run, rest string) {
	i := 1
	for i < len(s) && isDigit(s[i]) == isDigit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}

func compareRuns(a, b string) int {
	if isDigit(a[0]) && isDigit(b[0]) {
		x, y := strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	}
	// A suffix against more of the version: 1.2-rc1 is before 1.2.1, and so is 1.2_rc1.
	if x, y := isSuffix(a), isSuffix(b); x != y {
		return suffix(b)
	}
	return strings.Compare(a, b)
}
