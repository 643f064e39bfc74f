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

// foreignFlag adds the flag for layers that registries may not give away.
func foreignFlag(f *pflag.FlagSet, yes *bool) {
	f.BoolVar(yes, "foreign-layers", false, "download foreign layers from the URLs in their manifest")
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
