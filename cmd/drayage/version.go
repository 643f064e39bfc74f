package main

import (
	"fmt"
	"runtime"

	"drayage/cmd/drayage/internal/build"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/printable"

	"github.com/spf13/cobra"
)

func versionCommand(s process.Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := printable.Fprintf(s.Out, "drayage %s %s %s/%s\n", build.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	addNotices(cmd, s)
	return cmd
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return status.Misuse(fmt.Errorf("%s takes no arguments, got %q", cmd.CommandPath(), args[0]))
	}
	return nil
}
