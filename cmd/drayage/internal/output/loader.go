package output

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"drayage/cmd/drayage/internal/display"
	"drayage/tarwriter"
	"drayage/tarwriter/compress"
)

// loaders are the programs that take an archive on standard input, and how.
var loaders = map[string][]string{
	"docker":  {"load"},
	"podman":  {"load"},
	"nerdctl": {"load"},
	"ctr":     {"images", "import", "-"},
}

// loader is an archive into a program that loads it. What that says of what it
// loaded goes to standard error.
type loader struct {
	program  string
	path     string
	messages func(from string) display.Writer
}

// newLoader finds the program; "" is docker.
func newLoader(program string, messages func(from string) display.Writer) (loader, error) {
	if program == "" {
		program = "docker"
	}
	l := loader{program: program, messages: messages}
	path, err := exec.LookPath(program)
	if err != nil {
		return l, fmt.Errorf("-l runs %s: %w", l.name(), err)
	}
	l.path = path
	return l, nil
}

func (l loader) name() string {
	return l.program + " " + strings.TrimSuffix(strings.Join(loaders[l.program], " "), " -")
}

// readsZstd reports whether the daemon reads layers compressed with zstd, as
// Docker does from version 23 on. One that doesn't answer is not asked twice: the
// loading will tell.
func (l loader) readsZstd(ctx context.Context) bool {
	if l.program != "docker" {
		return true
	}
	const first, patience = 23, 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.path, "version", "--format", "{{.Server.Version}}")
	cmd.WaitDelay = 500 * time.Millisecond
	out, err := cmd.Output()
	major, _, _ := strings.Cut(strings.TrimSpace(string(out)), ".")
	n, errNumber := strconv.Atoi(major)
	return err != nil || errNumber != nil || n >= first
}

// Write runs the program and writes the archive into it.
func (l loader) Write(ctx context.Context, members []tarwriter.Member, blobs tarwriter.Blobs, progress func(int64)) (tarwriter.Result, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return tarwriter.Result{}, fmt.Errorf("%s: %w", l.name(), err)
	}
	cmd := exec.CommandContext(ctx, l.path, loaders[l.program]...)
	words := l.messages(l.program)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, words, words
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 500 * time.Millisecond
	if err := errors.Join(cmd.Start(), r.Close()); err != nil {
		w.Close()
		return tarwriter.Result{}, fmt.Errorf("%s: %w", l.name(), err)
	}
	report, wrote := tarwriter.NewStream(w, compress.None).Write(ctx, members, blobs, progress)
	closed := w.Close()
	err = cmd.Wait()
	words.Flush()
	switch {
	case ctx.Err() != nil:
		return report, context.Cause(ctx)
	case errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success(): // what it has started goes on
	case err != nil: // then what could not be written says nothing new
		return report, fmt.Errorf("%s: %w", l.name(), err)
	}
	return report, errors.Join(wrote, closed)
}

// Close does nothing: the program ended with Write.
func (loader) Close() error { return nil }
