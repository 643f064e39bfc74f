package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine"
	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/printable"
	"drayage/engine/registry/hosts"
	"drayage/engine/textfile"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// loginOptions are the flags of login, as given.
type loginOptions struct {
	net      network.Flags
	show     display.Flags
	user     string
	password string
	stdin    bool
}

func loginCommand(s process.Streams) *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login [flags] [REGISTRY]",
		Short: "Store credentials for a registry",
		Long: `Ask for a user name and password, try them at the registry (default: Docker Hub),
and store them where docker login does: with the credential helper that Docker's
config.json names, or in that file.`,
		Example: "  drayage login ghcr.io\n  cat token.txt | drayage login -u ann --password-stdin registry.example:5000",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runLogin(cmd.Context(), s, o, append(args, "docker.io")[0])
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&o.user, "username", "u", "", "`USER` name (default: prompt)")
	f.StringVar(&o.password, "password", "", "`PASSWORD`, visible to other users of this machine (default: prompt)")
	f.BoolVar(&o.stdin, "password-stdin", false, "read the password from standard input")
	o.net.AddTransport(f)
	return cmd
}

func runLogin(ctx context.Context, s process.Streams, o loginOptions, name string) error {
	name, err := hosts.ParseName(name)
	if err != nil {
		return status.Misuse(err)
	}
	o.show.Progress = "none"
	display, err := o.show.Start(s)
	if err != nil {
		return err
	}
	defer display.Close()
	if o.password != "" {
		display.Observe(event.Warned{Message: "a password on the command line can be seen by others; --password-stdin is safer"})
	}
	if err := o.ask(s); err != nil {
		return err
	}
	login, err := credential.Login(o.user, o.password)
	if err != nil {
		return status.Misuse(err)
	}
	const patience = 30 * time.Second
	client, err := o.net.Client(login, nil, 1, engine.Retry{Patience: patience}, display)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Ping(ctx, name); err != nil {
		return err
	}
	where, plain, err := credential.Store(ctx, name, o.user, o.password)
	if err != nil {
		return err
	}
	if plain {
		display.Observe(event.Warned{Message: "the password is stored in " + where + " without encryption; a credential helper would encrypt it"})
	}
	_, err = printable.Fprintf(s.Err, "logged in to %s; stored in %s\n", name, where)
	return err
}

// ask asks for what wasn't given, where somebody can answer.
func (o *loginOptions) ask(s process.Streams) error {
	if o.stdin {
		if o.user == "" || o.password != "" {
			return status.Misuse(errors.New("--password-stdin requires -u USER, and excludes --password"))
		}
		raw, err := textfile.ReadRaw(s.In, limits.StdinBytes)
		if images.BadText(err) {
			return status.Misuse(fmt.Errorf("--password-stdin: %w", err))
		}
		if err != nil {
			return err
		}
		o.password = strings.TrimRight(string(raw), "\r\n")
		return nil
	}
	in, ok := s.In.(*os.File)
	if (o.user == "" || o.password == "") && (!ok || !terminal.Is(in)) {
		return status.Misuse(errors.New("no terminal to prompt at; use -u USER and --password-stdin"))
	}
	if o.user == "" {
		printable.Fprintf(s.Err, "Username: ")
		line, err := bufio.NewReader(in).ReadString('\n')
		if err != nil {
			return err
		}
		o.user = strings.TrimSpace(line)
	}
	if o.password == "" {
		printable.Fprintf(s.Err, "Password: ")
		raw, err := term.ReadPassword(int(in.Fd()))
		printable.Fprintf(s.Err, "\n")
		if err != nil {
			return err
		}
		o.password = string(raw)
	}
	return nil
}

func logoutCommand(s process.Streams) *cobra.Command {
	return &cobra.Command{
		Use:     "logout [REGISTRY]",
		Short:   "Remove the credentials for a registry",
		Long:    "Remove the credentials for a registry (default: Docker Hub) that login has stored.",
		Example: "  drayage logout ghcr.io",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := hosts.ParseName(append(args, "docker.io")[0])
			if err != nil {
				return status.Misuse(err)
			}
			where, fault, err := credential.Remove(cmd.Context(), name)
			if err != nil {
				return err
			}
			if fault != nil {
				printable.Fprintf(s.Err, "drayage: warning: %v\n", fault)
			}
			if where == "" {
				_, err = printable.Fprintf(s.Err, "not logged in to %s\n", name)
				return err
			}
			_, err = printable.Fprintf(s.Err, "logged out of %s; removed from %s\n", name, where)
			return err
		},
	}
}
