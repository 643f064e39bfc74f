package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"

	"drayage/cmd/drayage/internal/status"
	"drayage/engine/image"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (o *outputFlags) add(f *pflag.FlagSet) {
	f.StringVarP(&o.file, "output", "o", "", "write all images into one archive `FILE`, complete or not at all")
	f.BoolVarP(&o.stdout, "stdout", "O", false, "write the archive to standard output")
	f.BoolVarP(&o.load, "load", "l", false, "stream the archive into docker load")
	f.StringVar(&o.loadWith, "load-with", "", "stream the archive into another `PROGRAM`: docker, podman, nerdctl or ctr")
	f.StringVarP(&o.dir, "dir", "d", "", "write the layout as an unpacked folder `DIR`")
	f.BoolVar(&o.force, "force", false, "overwrite FILE, or write into a DIR that is not empty")
	f.StringVar(&o.format, "format", "docker", "`FORMAT` of the archive: docker, which all loaders take; oci, a plain OCI layout; legacy, what docker save once wrote")
	f.StringVar(&o.layers, "layers", "keep", "layers as `FORM`: keep, as the registry serves them; tar, without compression, or gzip, for daemons that can't read zstd")
	o.maxRatio.Add(f)
	f.StringVar(&o.compress, "compress", "", "compress the archive with `FORMAT`: none, gzip or zstd (default none, or by FILE's ending: .gz, .tgz, .zst)")
	f.Var(&o.split, "split", "cut the archive into volumes FILE.001, FILE.002 ... of at most `SIZE`: 4.7G, 4095MiB")
	f.StringVar(&o.since, "since", "", "leave out the layers that `FILE` carried: an earlier archive, a list of digests, or a lock")
	f.BoolVar(&o.strip, "strip-registry", false, "name images in the archive without their registry")
	f.BoolVar(&o.verify, "verify", false, "hash everything that is composed, also what the store has verified before")
}

// foreignFlag adds the flag for layers that registries may not give away.
func foreignFlag(f *pflag.FlagSet, yes *bool) {
	f.BoolVar(yes, "foreign-layers", false, "fetch layers that a registry may not give away from the URLs in their manifest")
}

// platformFlag adds the flag for which image of several is meant.
func platformFlag(f *pflag.FlagSet, word *string, which string) {
	f.StringVar(word, "platform", "", which+": `OS/ARCH[/VARIANT]` (default "+image.DefaultPlatform().String()+")")
}

// platformOf is the platform of that flag.
func platformOf(word string) (image.Platform, error) {
	if word == "" {
		return image.DefaultPlatform(), nil
	}
	p, err := image.ParsePlatform(word)
	if err != nil {
		return p, status.Misuse(err)
	}
	return p, nil
}

// plainUsage leaves out of the usage text what pflag says of each switch, that
// it can be set to true or false, which is noise.
func plainUsage(root *cobra.Command) {
	noise := regexp.MustCompile(`\[=true\|false\]( *)`)
	usage := root.UsageFunc()
	root.SetUsageFunc(func(c *cobra.Command) error {
		out := c.OutOrStderr()
		var b bytes.Buffer
		c.SetOut(&b)
		err := usage(c)
		c.SetOut(out)
		const width = len("[=true|false]")
		_, _ = io.WriteString(out, noise.ReplaceAllString(b.String(), fmt.Sprintf("%*s$1", width, "")))
		return err
	})
}
