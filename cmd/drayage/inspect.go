package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/stores"
	"drayage/engine"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/printable"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// inspectOptions are the flags of inspect, as given.
type inspectOptions struct {
	query
	store string
	raw   bool
}

func inspectCommand(s process.Streams) *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect [flags] IMAGE",
		Short: "Show platforms, layers and sizes of an image, and what is in the store",
		Long: `Show what an image name refers to: the platforms of its index, the layers of one
of them, their sizes, and which of them are in the store. Inspect downloads
manifests only, and changes nothing.`,
		Example: "  drayage inspect alpine:3.20\n  drayage inspect --json --platform linux/arm64 ghcr.io/org/app:1.2",
		Args:    oneImage,
		RunE:    func(cmd *cobra.Command, args []string) error { return runInspect(cmd.Context(), s, o, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.raw, "raw", false, "print the manifest or index unchanged")
	stores.AddFlag(cmd.Flags(), &o.store)
	o.add(f)
	return cmd
}

// inspected is what inspect shows, and its JSON form.
type inspected struct {
	Image     string              `json:"image"`
	Digest    digest.Digest       `json:"digest"`
	MediaType string              `json:"mediaType"`
	Platforms []inspectedPlatform `json:"platforms,omitempty"` // of an index
	Platform  string              `json:"platform,omitempty"`  // of the manifest below
	Manifest  ocispec.Descriptor  `json:"manifest"`
	Blobs     []inspectedBlob     `json:"blobs"` // config first, then layers from the bottom
	Size      int64               `json:"size"`  // of manifests and blobs, each once
	Fetch     int64               `json:"fetch"` // what a pull would fetch of that
}

type inspectedPlatform struct {
	Platform string        `json:"platform"`
	Digest   digest.Digest `json:"digest"`
}

type inspectedBlob struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Here      bool          `json:"here"`
}

// oneImage is what commands take that look at one image.
func oneImage(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return status.Misuse(fmt.Errorf("exactly one image is required, e.g. alpine:3.20, not %d", len(args)))
	}
	return nil
}

func runInspect(ctx context.Context, s process.Streams, o inspectOptions, name string) error {
	store, err := stores.Peek(o.store)
	if err != nil {
		return err
	}
	return o.ask(ctx, s, store, name, func(_ clientMaker, r engine.Result) error { return o.show(s, store, r) })
}

func (o *inspectOptions) show(s process.Streams, store *blobstore.Store, r engine.Result) error {
	if o.raw {
		_, err := s.Out.Document().Write(r.Image.Documents[0].Raw)
		return err
	}
	in, err := inspect(store, r)
	if err != nil {
		return err
	}
	if o.json {
		return s.Out.JSON(in)
	}
	return in.print(s)
}

func inspect(store *blobstore.Store, r engine.Result) (inspected, error) {
	img := r.Image
	in := inspected{
		Image: r.Ref.String(), Digest: img.Target().Digest, MediaType: img.Target().MediaType,
		Manifest: img.Main().Descriptor(), Size: r.Fetched + r.Reused, Fetch: r.Fetched,
	}
	if p := img.Main().Platform; p != nil {
		in.Platform = image.FormatPlatform(*p)
	}
	if ix := img.Documents[0].Index; ix != nil {
		for _, d := range image.Children(ix) {
			p := inspectedPlatform{Digest: d.Digest}
			if d.Platform != nil {
				p.Platform = image.FormatPlatform(*d.Platform)
			} else if strings.Contains(d.MediaType, "index") || strings.Contains(d.MediaType, "list") {
				p.Platform = "an index of its own"
			}
			in.Platforms = append(in.Platforms, p)
		}
	}
	for _, d := range variantBlobs(img.Main()) {
		_, err := store.Stat(d.Digest)
		if err != nil && !errors.Is(err, blobstore.ErrNotFound) {
			return in, err
		}
		in.Blobs = append(in.Blobs, inspectedBlob{Digest: d.Digest, MediaType: d.MediaType, Size: d.Size, Here: err == nil})
	}
	return in, nil
}

// variantBlobs are the config, if there is one, and the layers.
func variantBlobs(v *plan.Variant) []ocispec.Descriptor {
	if v.Config.Digest == "" {
		return v.Layers
	}
	return append([]ocispec.Descriptor{v.Config}, v.Layers...)
}

// print shows it to people.
func (in inspected) print(s process.Streams) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "image\t%s\ndigest\t%s\ntype\t%s\n", in.Image, in.Digest, in.MediaType)
	for i, p := range in.Platforms {
		head := ""
		if i == 0 {
			head = "platforms"
		}
		printable.Fprintf(w, "%s\t%s  %s\n", head, p.Digest, p.Platform)
	}
	if in.Manifest.Digest != in.Digest {
		printable.Fprintf(w, "manifest\t%s  %s\n", in.Manifest.Digest, in.Platform)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	printable.Fprintf(w, "\nBLOB\tSIZE\tHERE\tTYPE\n")
	for _, b := range in.Blobs {
		here := "no"
		if b.Here {
			here = "yes"
		}
		printable.Fprintf(w, "%s\t%s\t%s\t%s\n", b.Digest, progress.Size(b.Size), here, b.MediaType)
	}
	printable.Fprintf(w, "\n%s in all; a pull would fetch %s\n", progress.Size(in.Size), progress.Size(in.Fetch))
	return w.Flush()
}
