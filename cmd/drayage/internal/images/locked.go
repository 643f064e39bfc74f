package images

import (
	"errors"
	"fmt"
	"strings"

	"drayage/cmd/drayage/internal/status"
	"drayage/engine"
	"drayage/engine/image"

	"github.com/spf13/pflag"
)

// LockHead opens a lock. What follows is a list as -f reads it: each image with
// its tag and the digest it stood for.
const LockHead = "# Images with their digests, written by drayage pull --lock. --update-lock rewrites it.\n"

// LockedOptions are options with what a lock says was pulled of its images.
func LockedOptions(opts engine.Options, with string) (engine.Options, error) {
	if with == "" {
		return opts, status.Misuse(errors.New("it does not record which platforms were pulled; use an archive or a list of digests"))
	}
	var words []string
	var all, referrers bool
	f := pflag.NewFlagSet("lock", pflag.ContinueOnError)
	f.StringArrayVar(&words, "platform", nil, "")
	f.BoolVar(&all, "all-platforms", false, "")
	f.BoolVar(&referrers, "referrers", false, "")
	if err := f.Parse(strings.Fields(with)); err != nil || len(words) == 0 {
		return opts, status.Misuse(fmt.Errorf("unexpected line %q", with))
	}
	opts.AllPlatforms, opts.Referrers, opts.Others = all, referrers, nil
	for i, w := range words {
		p, err := image.ParsePlatform(w)
		if err != nil {
			return opts, status.Misuse(err)
		}
		p.Explicit = false // what isn't for it was taken all the same
		if i == 0 {
			opts.Platform = p
		} else {
			opts.Others = append(opts.Others, p)
		}
	}
	return opts, nil
}
