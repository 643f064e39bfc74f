package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/phrase"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/stores"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/printable"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// listedImage is an image as ls has it in JSON.
type listedImage struct {
	Name   string        `json:"name"` // with registry, and tag or digest
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes of all its blobs
	Own    int64         `json:"own"`  // of those that no other image needs
	Used   time.Time     `json:"used,omitzero"`
	// From is where what the name stands for came from.
	From    blobstore.Origin `json:"from,omitzero"`
	Missing []digest.Digest  `json:"missing,omitempty"` // blobs that are not there any more
	// Incomplete says that only some of the image was asked for so far, through serve.
	Incomplete bool            `json:"incomplete,omitempty"`
	Blobs      []digest.Digest `json:"blobs"`
}

func storeListCommand(s process.Streams) *cobra.Command {
	var dir, order string
	var digests, asJSON bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the images of the store",
		Long: `List the images of the store with their digests, sizes, the bytes that no other
image needs, when they were last used (pulled, imported, exported or served), and
which of them were imported from an archive. With --digests, list the digests of
all their blobs, one per line, e.g. for pull --since.`,
		Example: "  drayage store ls\n  drayage store ls --sort used\n  drayage store ls --digests > carried.txt",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"name", "size", "own", "used"}, order) {
				return status.Misuse(fmt.Errorf("--sort %q: must be name, size, own or used", order))
			}
			store, err := stores.Peek(dir)
			if err != nil {
				return err
			}
			images, err := store.ImageUsages()
			if err != nil {
				return err
			}
			slices.SortStableFunc(images, func(a, b blobstore.ImageUsage) int {
				switch order {
				case "size":
					return cmp.Compare(b.Size, a.Size)
				case "own":
					return cmp.Compare(b.Own, a.Own)
				case "used":
					return b.Used.Compare(a.Used)
				}
				return cmp.Compare(a.Name, b.Name)
			})
			switch {
			case digests:
				return printDigests(s, images)
			}
			incomplete := incompleteImages(cmd.Context(), store, images)
			if asJSON {
				return printImagesJSON(s, images, incomplete)
			}
			return printImages(s, images, incomplete)
		},
	}
	stores.AddFlag(cmd.Flags(), &dir)
	cmd.Flags().BoolVar(&digests, "digests", false, "list the digests of all blobs, sorted, one per line")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the digests of each image's blobs")
	cmd.Flags().StringVar(&order, "sort", "name", "sort by `ORDER`: name, size, own or used")
	return cmd
}

func printDigests(s process.Streams, images []blobstore.ImageUsage) error {
	var all []digest.Digest
	for _, r := range images {
		all = append(all, r.Blobs...)
	}
	slices.Sort(all)
	var text strings.Builder
	for _, d := range slices.Compact(all) {
		text.WriteString(d.String() + "\n")
	}
	_, err := s.Out.Write([]byte(text.String()))
	return err
}

// incompleteImages are the images of which not even one platform is all there.
func incompleteImages(ctx context.Context, store *blobstore.Store, images []blobstore.ImageUsage) map[string]bool {
	out := make(map[string]bool)
	for _, i := range images {
		if _, err := compose.Stored(ctx, store, i.Root, image.DefaultPlatform()); err != nil {
			out[i.Name] = true
		}
	}
	return out
}

func printImagesJSON(s process.Streams, images []blobstore.ImageUsage, incomplete map[string]bool) error {
	out := make([]listedImage, 0, len(images))
	for _, i := range images {
		out = append(out, listedImage{Name: i.Name, Digest: i.Target.Digest, Size: i.Size, Own: i.Own, Used: i.Used.UTC(), From: i.From, Missing: i.Missing, Incomplete: incomplete[i.Name], Blobs: i.Blobs})
	}
	return s.Out.JSON(out)
}

// printImages prints a table for people, and for programs lines whose first fields
// stay what they are.
func printImages(s process.Streams, images []blobstore.ImageUsage, incomplete map[string]bool) error {
	if !terminal.Is(s.Out) {
		for _, i := range images {
			format, values := "%s\t%s\t%d\t%d\t%s", []any{stores.Familiar(i.Name), i.Target.Digest, i.Size, i.Own, i.Used.UTC().Format(time.RFC3339)}
			if incomplete[i.Name] {
				format += "\tincomplete"
			} else if i.From.Kind == blobstore.FromArchive {
				format += "\t" // for the place before it
			}
			if i.From.Kind == blobstore.FromArchive {
				format, values = format+"\tarchive %s", append(values, i.From.Where)
			}
			printable.Fprintf(s.Out, format+"\n", values...)
		}
		return nil
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "IMAGE\tDIGEST\tSIZE\tUNIQUE\tSTATE\tLAST USED\tFROM\n")
	var missing int
	for _, i := range images {
		missing += len(i.Missing)
		state := "complete"
		if incomplete[i.Name] {
			state = "incomplete"
		}
		printable.Fprintf(w, "%s\t%.19s\t%s\t%s\t%s\t%s\t%s\n", stores.Familiar(i.Name), i.Target.Digest, progress.Size(i.Size), progress.Size(i.Own), state, phrase.Ago(i.Used), origin(i.From))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if missing > 0 {
		printable.Fprintf(s.Err, "drayage: %s missing: pull the images again, or drayage store verify --repair\n", phrase.Count(missing, "blob"))
	}
	return nil
}

// origin is for people where an image's name came from.
func origin(o blobstore.Origin) string {
	switch o.Kind {
	case blobstore.FromArchive:
		return "archive " + printable.Line(o.Where)
	case blobstore.FromRegistry:
		return "registry"
	}
	return "unknown"
}

func storeInfoCommand(s process.Streams) *cobra.Command {
	var dir string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "info",
		Short:   "Show store contents and disk usage",
		Long:    "Show how many images and blobs the store has, their disk usage, and what gc\ncould free.",
		Example: "  drayage store info\n  drayage store info --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := stores.Peek(dir)
			if err != nil {
				return err
			}
			u, err := store.Usage(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return s.Out.JSON(struct {
					Dir string `json:"dir"`
					blobstore.Usage
				}{store.Dir(), u})
			}
			return printUsage(cmd.Context(), s, store, u)
		},
	}
	stores.AddFlag(cmd.Flags(), &dir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printUsage(_ context.Context, s process.Streams, store *blobstore.Store, u blobstore.Usage) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "store\t%s\n", store.Dir())
	if may := store.OthersMay(); may != "" {
		printable.Fprintf(w, "other users may\t%s; chmod 700 restricts it to its owner\n", may)
	}
	printable.Fprintf(w, "images\t%d\n", u.Images)
	printable.Fprintf(w, "blobs\t%d, %s\n", u.Blobs, progress.Size(u.Bytes))
	printable.Fprintf(w, "unreferenced\t%s\n", progress.Size(u.Unneeded))
	if u.Converted > 0 {
		printable.Fprintf(w, "converted layers\t%d\n", u.Converted)
	}
	printable.Fprintf(w, "partial\t%d, %s\n", u.Partial, progress.Size(u.PartialSize))
	if u.Quarantined > 0 {
		printable.Fprintf(w, "damaged, in quarantine\t%d\n", u.Quarantined)
	}
	if u.Free >= 0 {
		printable.Fprintf(w, "free on its disk\t%s\n", progress.Size(u.Free))
	}
	return w.Flush()
}
