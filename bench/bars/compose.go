//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"drayage/engine/registry/registrytest"
	"drayage/tarwriter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// folder is a tarwriter.Blobs of files named by digest.
type folder string

func (f folder) Open(_ context.Context, d digest.Digest) (*os.File, error) {
	return os.Open(filepath.Join(string(f), d.Encoded()))
}

// composition measures archives of 512 MiB: here against cp, and on file
// systems that share extents.
func composition(_ context.Context, b bench) ([]bar, error) {
	scratch, rounds := b.scratch, b.rounds
	here := filepath.Join(scratch, "compose")
	if err := os.Mkdir(here, 0o755); err != nil {
		return nil, err
	}
	img, err := blobFiles(here, blobs)
	if err != nil {
		return nil, err
	}
	out, err := againstCopy(here, img, rounds)
	if err != nil {
		return nil, err
	}
	for _, kind := range []string{"xfs", "btrfs"} {
		onDisk, err := onLoop(scratch, kind, rounds)
		if err != nil {
			out = append(out, bar{what: "compose 2 GiB on " + kind, measured: "not measured: " + err.Error()})
			continue
		}
		out = append(out, onDisk)
	}
	return out, nil
}

// blobFiles writes the layers of an image, of 64 MiB each.
func blobFiles(dir string, count int) (tarwriter.Image, error) {
	img := tarwriter.Image{Name: "docker.io/library/x:1", RepoTag: "x:1"}
	put := func(content []byte) (ocispec.Descriptor, error) {
		d := registrytest.Describe(ocispec.MediaTypeImageLayerGzip, content)
		return d, os.WriteFile(filepath.Join(dir, d.Digest.Encoded()), content, 0o644)
	}
	v := tarwriter.Manifest{Runnable: true}
	for i := range count {
		d, err := put(registrytest.Random(uint64(i), blobSize))
		if err != nil {
			return img, err
		}
		v.Layers = append(v.Layers, d)
	}
	var err error
	if v.Config, err = put([]byte("{}")); err == nil {
		v.Descriptor, err = put([]byte("{ }"))
	}
	img.Target, img.Manifests = v.Descriptor, []tarwriter.Manifest{v}
	syscall.Sync()
	return img, err
}

func againstCopy(dir string, img tarwriter.Image, rounds int) ([]bar, error) {
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		return nil, err
	}
	target := filepath.Join(dir, "out")
	var ours, theirs []float64
	compose := func() error {
		f, err := os.Create(target)
		if err != nil {
			return err
		}
		_, err = tarwriter.Write(context.Background(), f, members, folder(dir), nil)
		return errors.Join(err, f.Close())
	}
	same := filepath.Join(dir, "same.tar") // the archive's own bytes, for cp
	if _, err := clocked(target, compose); err != nil {
		return nil, err
	}
	if err := os.Rename(target, same); err != nil {
		return nil, err
	}
	cp := func() error { return exec.CommandContext(context.Background(), "cp", same, target).Run() }
	for i := range 3 * rounds { // short, and noisy
		first, second := compose, cp
		if i%2 == 1 {
			first, second = cp, compose // so that neither always follows the other
		}
		mine, err := clocked(target, first)
		if err != nil {
			return nil, err
		}
		other, err := clocked(target, second)
		if err != nil {
			return nil, err
		}
		if i%2 == 1 {
			mine, other = other, mine
		}
		ours, theirs = append(ours, mine), append(theirs, other)
	}
	// The best of each: both are the same system call, and what is above the
	// best is the machine's noise, which is larger than the difference.
	r := slices.Min(ours) / slices.Min(theirs)
	return []bar{{"compose 512 MiB: tarwriter / cp of the archive, neither synced", fmt.Sprintf("%.2fx (%.0f ms / %.0f ms)", r, 1000*slices.Min(ours), 1000*slices.Min(theirs)), "<= 1.00x, +-0.03 of noise", r <= 1.03}}, nil
}

// clocked times f in seconds, with target out of the way and the disk idle.
func clocked(target string, f func() error) (float64, error) {
	if err := os.RemoveAll(target); err != nil {
		return 0, err
	}
	syscall.Sync()
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}

// onLoop measures composing, with its sync, on a new file system in a file.
func onLoop(scratch, kind string, rounds int) (bar, error) {
	if os.Getuid() != 0 {
		return bar{}, errors.New("mounting needs root")
	}
	disk, mount := filepath.Join(scratch, kind+".img"), filepath.Join(scratch, kind)
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return bar{}, err
	}
	defer os.Remove(disk)
	if err := errors.Join(os.Truncate(disk, 6<<30), os.Mkdir(mount, 0o755)); err != nil {
		return bar{}, err
	}
	for _, args := range [][]string{{"mkfs." + kind, "-q", disk}, {"mount", "-o", "loop", disk, mount}} {
		if out, err := exec.CommandContext(context.Background(), args[0], args[1:]...).CombinedOutput(); err != nil {
			return bar{}, fmt.Errorf("%s: %w %s", args[0], err, strings.TrimSpace(string(out)))
		}
	}
	defer exec.CommandContext(context.Background(), "umount", mount).Run() //nolint:errcheck // nothing is left to do then
	img, err := blobFiles(mount, 4*blobs)
	if err != nil {
		return bar{}, err
	}
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		return bar{}, err
	}
	target := filepath.Join(mount, "out.tar")
	var ours []float64
	var copied int64 // bytes of blobs that were not shared
	before, err := used(mount)
	if err != nil {
		return bar{}, err
	}
	for range rounds {
		took, err := clocked(target, func() error {
			f, err := tarwriter.CreateFile(target, tarwriter.Options{})
			if err != nil {
				return err
			}
			var r tarwriter.Result
			r, err = f.Write(context.Background(), members, folder(mount), nil)
			copied = r.Kernel + r.ByHand
			return errors.Join(err, f.Close())
		})
		if err != nil {
			return bar{}, err
		}
		ours = append(ours, took)
	}
	after, err := used(mount)
	if err != nil {
		return bar{}, err
	}
	ms, took := 1000*median(ours), after-before
	// What it takes are headers, of which each layer's fills up to 64 KiB.
	headers := int64(len(members)) * 64 << 10
	return bar{"compose 2 GiB on " + kind + ", synced and named; disk that it takes; bytes of blobs not shared", fmt.Sprintf("%.1f ms; %d KiB; %d", ms, took>>10, copied),
		"<= 30 ms; headers; < 1 KiB", ms <= 30 && took <= headers && copied < 1<<10}, nil
}

// used is how many bytes of a file system are taken.
func used(mount string) (int64, error) {
	syscall.Sync()
	var s syscall.Statfs_t
	if err := syscall.Statfs(mount, &s); err != nil {
		return 0, err
	}
	return int64(s.Blocks-s.Bfree) * int64(s.Bsize), nil
}
