package main

import (
	"bytes"
	"fmt"
	"io"
	"regexp"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// foreignFlag adds the flag for layers that registries may not give away.
func foreignFlag(f *pflag.FlagSet, yes *bool) {
	f.BoolVar(yes, "foreign-layers", false, "download foreign layers from the URLs in their manifest")
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
