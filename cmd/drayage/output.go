package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"drayage/cmd/drayage/progress"
	"drayage/engine"
	"drayage/engine/event"
	"drayage/tarwriter"
)

// outputFlags say where images go besides the store.
type outputFlags struct {
	file   string
	stdout bool
	load   bool
	dir    string
	force  bool
	format string
}

// any reports whether there is an output at all.
func (o *outputFlags) any() bool { return o.file != "" || o.stdout || o.load || o.dir != "" }

func (o *outputFlags) layout() tarwriter.Layout {
	return map[string]tarwriter.Layout{"docker": tarwriter.Docker, "oci": tarwriter.OCI}[o.format]
}

func (o *outputFlags) check(s streams) error {
	if o.file == "-" {
		o.file, o.stdout = "", true
	}
	switch {
	case o.layout() == nil:
		return usageError{fmt.Errorf("--format %q: want docker or oci", o.format)}
	case o.stdout && isTerminal(s.out):
		return usageError{errors.New("an archive is not for terminals: send standard output to a file or program")}
	}
	return nil
}

// output is one place to write images to.
type output interface {
	Write(ctx context.Context, members []tarwriter.Member, blobs tarwriter.Blobs, progress func(int64)) error
	Close() error // removes what was not completed
}

type namedOutput struct {
	name string
	output
}

type outputs []namedOutput

// open begins every output, so that one that can't work is known before
// anything is fetched.
func (o *outputFlags) open(ctx context.Context, s streams) (outs outputs, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, outs.Close())
		}
	}()
	if o.file != "" {
		f, err := tarwriter.CreateFile(o.file, o.force)
		if err != nil {
			return outs, err
		}
		outs = append(outs, namedOutput{o.file, f})
	}
	if o.dir != "" {
		d, err := tarwriter.CreateDir(o.dir, o.force)
		if err != nil {
			return outs, err
		}
		outs = append(outs, namedOutput{o.dir, d})
	}
	if o.stdout {
		outs = append(outs, namedOutput{"standard output", stream{s.out}})
	}
	if o.load {
		path, err := exec.LookPath("docker")
		if err != nil {
			return outs, fmt.Errorf("-l runs docker load: %w", err)
		}
		outs = append(outs, namedOutput{"docker load", loader{docker: path, messages: s.err}})
	}
	return outs, nil
}

func (outs outputs) Close() error {
	var errs []error
	for _, o := range outs {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

func (outs outputs) write(ctx context.Context, members []tarwriter.Member, blobs tarwriter.Blobs, observer event.Observer) error {
	size, err := tarwriter.Size(members)
	if err != nil {
		return err
	}
	for _, o := range outs {
		observer.Observe(event.Composing{Output: o.name, Size: size})
		err := o.Write(ctx, members, blobs, func(n int64) { observer.Observe(event.Composed{Output: o.name, N: n}) })
		if err != nil {
			return err
		}
		observer.Observe(event.Written{Output: o.name, Size: size})
	}
	return nil
}

// stream is an archive to standard output.
type stream struct{ out *os.File }

func (s stream) Write(ctx context.Context, members []tarwriter.Member, blobs tarwriter.Blobs, progress func(int64)) error {
	return tarwriter.Write(ctx, s.out, members, blobs, progress)
}

func (stream) Close() error { return nil }

// loader is an archive into docker load.
type loader struct {
	docker   string
	messages io.Writer
}

func (l loader) Write(ctx context.Context, members []tarwriter.Member, blobs tarwriter.Blobs, progress func(int64)) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("docker load: %w", err)
	}
	cmd := exec.CommandContext(ctx, l.docker, "load")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, l.messages, l.messages
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 500 * time.Millisecond
	if err := errors.Join(cmd.Start(), r.Close()); err != nil {
		w.Close()
		return fmt.Errorf("docker load: %w", err)
	}
	wrote := tarwriter.Write(ctx, w, members, blobs, progress)
	closed := w.Close()
	switch err := cmd.Wait(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil: // then what could not be written says nothing new
		return fmt.Errorf("docker load: %w", err)
	}
	return errors.Join(wrote, closed)
}

func (loader) Close() error { return nil }

// printResults writes the line of each image: for programs with tabs and bare
// numbers, on a terminal for people.
func printResults(out *os.File, results []engine.Result) error {
	var text strings.Builder
	if !isTerminal(out) {
		for _, r := range results {
			fmt.Fprintf(&text, "%s\t%s\t%d\t%d\n", r.Ref, r.Image.Target().Digest, r.Fetched, r.Reused)
		}
		_, err := out.WriteString(text.String())
		return err
	}
	for _, r := range results {
		fmt.Fprintf(&text, "%s\t%s\t%s fetched\t%s reused\n", r.Ref, r.Image.Target().Digest, progress.Size(r.Fetched), progress.Size(r.Reused))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := w.Write([]byte(text.String()))
	return errors.Join(err, w.Flush())
}
