// Package output writes images to where a command sends them besides the store: archives in files and
// streams, directories, and programs that load them.
package output

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine"
	"drayage/engine/compose"
	"drayage/engine/printable"
	"drayage/tarwriter"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
)

// Flags say where images go besides the store, and as what.
type Flags struct {
	File     string
	Stdout   bool
	Load     bool
	loadWith string
	Dir      string
	Force    bool

	Format   string
	Layers   string
	compress string
	split    units.Size
	Since    string
	strip    bool
	NoSync   bool
	Verify   bool
	MaxRatio units.UnpackRatio

	kept digest.Digest // the fingerprint of the archive that File is, "" when it isn't one; see Recall
}

// Any reports whether there is an output at all.
func (o *Flags) Any() bool { return o.File != "" || o.Stdout || o.Load || o.Dir != "" }

// streaming reports whether somebody waits for the archive's bytes.
func (o *Flags) streaming() bool { return o.Stdout || o.Load }

func (o *Flags) layout() tarwriter.Layout {
	return map[string]tarwriter.Layout{"docker": tarwriter.Docker, "oci": tarwriter.OCI, "legacy": tarwriter.Legacy}[o.Format]
}

// Check finds what is wrong with the outputs asked for.
func (o *Flags) Check(s process.Streams) error {
	if fd, open := namesOpen(o.File); o.File == "-" || open && fd == standardOutput {
		o.File, o.Stdout = "", true
	}
	if o.loadWith != "" {
		o.Load = true
	}
	if err := o.MaxRatio.Check(); err != nil {
		return err
	}
	_, layersErr := compose.ParseLayers(o.Layers)
	_, compressErr := o.Compression()
	switch {
	case o.layout() == nil:
		return status.Misuse(fmt.Errorf("invalid --format %q; expected docker, oci or legacy", o.Format))
	case layersErr != nil:
		return status.Misuse(fmt.Errorf("--layers: %w", layersErr))
	case compressErr != nil:
		return status.Misuse(fmt.Errorf("--compress: %w", compressErr))
	case o.compress != "" && o.File == "" && !o.Stdout:
		return status.Misuse(errors.New("--compress requires -o or -O"))
	case o.split > 0 && o.File == "":
		return status.Misuse(errors.New("--split requires -o FILE"))
	case o.split > 0 && o.IsOpen():
		return status.Misuse(fmt.Errorf("--split requires a file; %s is not one", o.File))
	case o.split > 0 && o.split < tarwriter.VolumeUnit:
		return status.Misuse(fmt.Errorf("--split: volumes must have at least %d KiB", tarwriter.VolumeUnit>>10))
	case o.Since != "" && !o.Any():
		return status.Misuse(errors.New("--since requires -o, -O, -d or -l"))
	case o.Since != "" && o.Format == "legacy":
		return status.Misuse(errors.New("--since requires --format docker or oci: legacy archives cannot record what is left out"))
	case o.Load && o.Format == "oci" && (o.loadWith == "" || o.loadWith == "docker"):
		return status.Misuse(errors.New("docker load requires --format docker or legacy"))
	case o.File != "" && o.File == o.Dir:
		return status.Misuse(errors.New("-o and -d name the same path"))
	case o.loadWith != "" && loaders[o.loadWith] == nil:
		return status.Misuse(fmt.Errorf("invalid --load-with %q; expected docker, podman, nerdctl or ctr", o.loadWith))
	case o.Stdout && terminal.Is(s.Out):
		return status.Misuse(errors.New("refusing to write an archive to a terminal; redirect standard output to a file or program"))
	}
	return nil
}

// Compression is that of the archive: as asked for, or by the file's name.
func (o *Flags) Compression() (compress.Format, error) {
	if o.compress != "" {
		return compress.ParseFormat(o.compress)
	}
	for ending, f := range map[string]compress.Format{".gz": compress.Gzip, ".tgz": compress.Gzip, ".zst": compress.Zstd, ".tzst": compress.Zstd} {
		if strings.HasSuffix(o.File, ending) {
			return f, nil
		}
	}
	return compress.None, nil
}

// Destination is an output by its name.
type Destination struct {
	name string
	tarwriter.Output
}

// Outputs are all outputs of a command, in the order in which they are written.
type Outputs []Destination

// Open begins every output, so that one that can't work is known before
// anything is fetched. Those that somebody waits for come first.
func (o *Flags) Open(ctx context.Context, s process.Streams, d *display.Display) (outs Outputs, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, outs.Close())
		}
	}()
	compression, err := o.Compression()
	if err != nil {
		return outs, err
	}
	if o.Stdout {
		c := compression
		if o.compress == "" {
			c = compress.None // the name of another output doesn't count
		}
		outs = append(outs, Destination{"standard output", tarwriter.NewStream(s.Out.Archive(), c)})
	}
	if o.Load {
		l, err := newLoader(o.loadWith, d.Words)
		if err != nil {
			return outs, err
		}
		outs = append(outs, Destination{l.name(), l})
	}
	if o.File != "" {
		f, err := o.create(compression)
		if err != nil {
			return outs, err
		}
		outs = append(outs, Destination{o.File, f})
	}
	if o.Dir != "" {
		d, err := tarwriter.CreateDir(o.Dir, tarwriter.Options{Force: o.Force, NoSync: o.NoSync})
		if err != nil {
			return outs, err
		}
		outs = append(outs, Destination{o.Dir, d})
	}
	return outs, nil
}

// create begins the archive in a file: in the one that links lead to, as durable.Follow has it.
func (o *Flags) create(compression compress.Format) (tarwriter.Output, error) {
	path, err := durable.Follow(o.File)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	if fd, open := durable.Descriptor(path); open {
		f, err := durable.OpenDescriptor(fd, o.File)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		return openOutput{tarwriter.NewStream(f, compression), f}, nil
	}
	if o.split > 0 {
		path = o.File // which is the beginning of the volumes' names
	}
	begin := func() (tarwriter.Output, error) {
		return tarwriter.CreateFile(path, tarwriter.Options{Force: o.Force, Compress: compression, Split: int64(o.split), NoSync: o.NoSync})
	}
	if o.kept != "" {
		return &kept{path: path, fingerprint: o.kept, compression: compression, open: begin}, nil
	}
	return begin()
}

// openOutput is an archive into what the process had open.
type openOutput struct {
	tarwriter.Output
	file *os.File
}

// Close closes the file.
func (o openOutput) Close() error { return o.file.Close() }

// IsOpen reports whether the archive goes to what the process had open.
func (o *Flags) IsOpen() bool {
	_, open := namesOpen(o.File)
	return open
}

// The numbers of the streams that every process has.
const (
	standardOutput = 1
	standardError  = 2
)

// namesOpen is the number of the open file that a name leads to, as /dev/stdout does.
func namesOpen(path string) (fd int, open bool) {
	to, err := durable.Follow(path)
	if err != nil || path == "" {
		return 0, false // it is told when it is used
	}
	return durable.Descriptor(to)
}

// IsOutput reports whether a name leads to standard output or error, which can't be read.
func IsOutput(path string) bool {
	fd, open := namesOpen(path)
	return open && (fd == standardOutput || fd == standardError)
}

// Close removes what was not completed.
func (outs Outputs) Close() error {
	var errs []error
	for _, o := range outs {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

// Folder is where outputs take space, or "".
func (o *Flags) Folder() string {
	if o.File == "" {
		return o.Dir
	}
	if info, err := os.Stat(o.File); o.IsOpen() || err == nil && !info.Mode().IsRegular() {
		return o.Dir // a device or a pipe takes none
	}
	if path, err := durable.Follow(o.File); err == nil && o.split == 0 {
		return filepath.Dir(path)
	}
	return filepath.Dir(o.File)
}

// PrintResults writes the line of each image: for programs with tabs and bare
// numbers, on a terminal for people.
func PrintResults(out terminal.Escaper, results []engine.Result) error {
	var text strings.Builder
	if !terminal.Is(out) {
		for _, r := range results {
			printable.Fprintf(&text, "%s\t%s\t%d\t%d\n", r.Ref, r.Image.Target().Digest, r.Fetched, r.Reused)
		}
		_, err := out.Write([]byte(text.String()))
		return err
	}
	width, _ := terminal.Size(out)
	if widest(results) > width {
		width = 0
	}
	for _, r := range results {
		d := r.Image.Target().Digest.String()
		if width == 0 { // lines that wrap are no table; the whole digest is in inspect's and the lock's
			d = shortDigest(d)
		}
		printable.Fprintf(&text, "%s\t%s\t%s fetched\t%s reused\n", r.Ref, d, progress.Size(r.Fetched), progress.Size(r.Reused))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, err := w.Write([]byte(text.String()))
	return errors.Join(err, w.Flush())
}

// widest is how many columns a table of results takes.
func widest(results []engine.Result) int {
	const sizes = 2 + len("1023.9 MiB fetched") + 2 + len("1023.9 MiB reused")
	n := 0
	for _, r := range results {
		n = max(n, len(r.Ref.String())+2+len(r.Image.Target().Digest)+sizes)
	}
	return n
}

// shortDigest is as much of a digest as people compare.
func shortDigest(d string) string {
	const hex = 12
	algorithm, rest, ok := strings.Cut(d, ":")
	if !ok || len(rest) <= hex {
		return d
	}
	return algorithm + ":" + rest[:hex] + "…"
}
