package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine/printable"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// streams are what a command reads and writes besides files.
type streams struct {
	in  io.Reader
	out terminal.Stream // what was asked for, and nothing else
	err terminal.Stream // everything else

	ending *ending // of this process, or nil

	// For tests that let the process die at a call:
	disk       durable.Disk  // what the store is kept on; nil means this machine's
	checkpoint time.Duration // 0 means the engine's
}

func standardStreams() streams {
	return streams{in: os.Stdin, out: terminal.New(os.Stdout), err: terminal.New(os.Stderr)}
}

// run executes a command line and reports its error, which it returns for the
// exit status.
func run(ctx context.Context, args []string, s streams) error {
	root := &cobra.Command{
		Use:   "drayage",
		Short: "Download container images: many at once, verified, into one archive",
		Long: `Drayage downloads container images from registries, many at once, each blob
once, verified as it arrives, into a store; and composes them into one archive
that docker load, podman load and ctr images import take.`,
		Example:           "  drayage pull -o images.tar alpine:3.20 ghcr.io/org/app:1.2\n  docker load -i images.tar",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetArgs(joinProgress(args))
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return status.Misuse(err) })
	root.AddCommand(pullCommand(s), warmCommand(s), serveCommand(s), storeCommand(s), inspectCommand(s), benchCommand(s), doctorCommand(s), loginCommand(s), logoutCommand(s), chaosCommand(s), versionCommand(s))
	root.SuggestionsMinimumDistance = 2
	plainUsage(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return noEmptyValues(cmd.Flags()) }

	inJSON := slices.Contains(joinProgress(args), "--progress=json")
	if s.ending != nil {
		s.ending.json.Store(inJSON)
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return nil
	}
	if !status.As[status.Reported](err) && (!status.As[status.SignalError](err) || s.ending.tell()) {
		// What cobra finds wrong by itself has no type of its own.
		text := err.Error()
		if slices.ContainsFunc([]string{"unknown command", "unknown flag", "accepts ", "requires "}, func(p string) bool { return strings.HasPrefix(text, p) }) {
			err = status.Misuse(errors.New(strings.Join(strings.Fields(text), " ")))
		}
		if inJSON {
			j := progress.NewJSON(s.err)
			j.Observe(status.Event(err))
			return err
		}
		status.Report(s.err, err, false)
	}
	if status.Of(err) == status.Usage && !inJSON {
		printable.Fprintf(s.err, "Try '%s --help'.\n", cmd.CommandPath())
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
