package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/printable"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// run executes a command line and reports its error, which it returns for the
// exit status.
func run(ctx context.Context, args []string, s process.Streams) error {
	root := &cobra.Command{
		Use:   "drayage",
		Short: "Download container images: many at once, verified, into one archive",
		Long: `Drayage downloads container images, many at once, into a store: each blob once,
verified while it arrives, resumed after interruptions. It writes them to one
archive for docker load, podman load and ctr images import, keeps them fresh,
and serves them as a mirror.`,
		Example:           "  drayage pull -o images.tar alpine:3.20 ghcr.io/org/app:1.2\n  docker load -i images.tar",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetArgs(display.JoinProgress(args))
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return status.Misuse(err) })
	root.AddCommand(pullCommand(s), warmCommand(s), serveCommand(s), storeCommand(s), inspectCommand(s), benchCommand(s), doctorCommand(s), loginCommand(s), logoutCommand(s), chaosCommand(s), versionCommand(s))
	root.SuggestionsMinimumDistance = 2
	plainUsage(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return noEmptyValues(cmd.Flags()) }

	inJSON := slices.Contains(display.JoinProgress(args), "--progress=json")
	if inJSON {
		s.Ending.SayAsEvent()
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return nil
	}
	if !status.As[status.Reported](err) && (!status.As[status.SignalError](err) || s.Ending.Tell()) {
		// What cobra finds wrong by itself has no type of its own.
		text := err.Error()
		if slices.ContainsFunc([]string{"unknown command", "unknown flag", "accepts ", "requires "}, func(p string) bool { return strings.HasPrefix(text, p) }) {
			err = status.Misuse(errors.New(strings.Join(strings.Fields(text), " ")))
		}
		if inJSON {
			j := progress.NewJSON(s.Err)
			j.Observe(status.Event(err))
			return err
		}
		status.Report(s.Err, err, false)
	}
	if status.IsUsage(err) && !inJSON {
		printable.Fprintf(s.Err, "Try '%s --help'.\n", cmd.CommandPath())
	}
	return err
}

// noEmptyValues refuses flags that were given nothing: a script's variable may not
// have been set.
func noEmptyValues(f *pflag.FlagSet) (err error) {
	f.Visit(func(flag *pflag.Flag) {
		if flag.Value.Type() == "string" && flag.Value.String() == "" {
			err = status.Misuse(fmt.Errorf("--%s is empty", flag.Name))
		}
	})
	return err
}
