//go:build unix

package tarwriter_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drayage/blobstore/durable"
	"drayage/tarwriter"
)

// stranger is the number of a user who has nothing to do with this one.
const stranger = 54321

// planted are what another user of a folder can put where a file is to be written, each of which
// returns the file that it endangers, or "".
var planted = map[string]func(t *testing.T, path string) string{
	"a link to a file": func(t *testing.T, path string) string {
		precious := filepath.Join(t.TempDir(), "precious")
		must(t, os.WriteFile(precious, []byte("precious"), 0o600), os.Symlink(precious, path))
		return precious
	},
	"a link that leads nowhere": func(t *testing.T, path string) string {
		must(t, os.Symlink(filepath.Join(t.TempDir(), "new"), path))
		return ""
	},
	"a pipe": func(t *testing.T, path string) string {
		must(t, syscall.Mkfifo(path, 0o666))
		return ""
	},
	"a socket": func(t *testing.T, path string) string {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		must(t, err)
		t.Cleanup(func() { syscall.Close(fd) })
		// Names of sockets are short: it is bound by a short one, and renamed.
		dir, err := os.MkdirTemp("", "s") //nolint:usetesting // names of sockets are short
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: filepath.Join(dir, "s")}))
		if err := os.Rename(filepath.Join(dir, "s"), path); err != nil {
			t.Skip(err)
		}
		return ""
	},
	"a second name of a file": func(t *testing.T, path string) string {
		precious := filepath.Join(t.TempDir(), "precious")
		must(t, os.WriteFile(precious, []byte("precious"), 0o600))
		if err := os.Link(precious, path); err != nil {
			t.Skip(err)
		}
		return precious
	},
	"another user's file": func(t *testing.T, path string) string {
		if os.Getuid() != 0 {
			t.Skip("this takes root")
		}
		must(t, os.WriteFile(path, []byte("precious"), 0o666), os.Chown(path, stranger, stranger))
		return path
	},
}

func TestAPlantedPartIsRefused(t *testing.T) {
	for name, plant := range planted {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.tar")
			precious := plant(t, path+".drayage-part")
			f, err := tarwriter.CreateFile(path, tarwriter.Options{})
			if err == nil {
				f.Close()
				t.Fatal("it was used")
			}
			var at *fs.PathError
			if !errors.As(err, &at) || !strings.Contains(err.Error(), "remove it") {
				t.Errorf("the error is %v", err)
			}
			unharmed(t, precious)
			if _, err := os.Lstat(path); err == nil {
				t.Error("there is an archive")
			}
		})
	}
}

func TestAPlantedMarkOfAFolderIsRefused(t *testing.T) {
	for name, plant := range planted {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "thesis"), []byte("precious"), 0o600))
			precious := plant(t, filepath.Join(dir, ".drayage-part"))
			if name == "another user's file" { // which says that all else may be removed
				must(t, os.WriteFile(precious, []byte("all here is of an archive that is being written\n"), 0o666))
				precious = ""
			}
			d, err := tarwriter.CreateDir(dir, tarwriter.Options{Force: true})
			if err == nil {
				d.Close()
				t.Fatal("it was used")
			}
			unharmed(t, precious)
			unharmed(t, filepath.Join(dir, "thesis"))
		})
	}
}

func TestPlantedPartsOfMembersAreNotWrittenTo(t *testing.T) {
	for name, plant := range planted {
		t.Run(name, func(t *testing.T) {
			blobs := folder(t.TempDir())
			members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1")})
			must(t, err)
			dir := t.TempDir()
			precious := plant(t, filepath.Join(dir, "index.json.drayage-part"))
			d, err := tarwriter.CreateDir(dir, tarwriter.Options{Force: true})
			must(t, err)
			must(t, second(d.Write(t.Context(), members, blobs, nil)), d.Close())
			if precious != filepath.Join(dir, "index.json.drayage-part") {
				unharmed(t, precious)
			}
			info, err := os.Lstat(filepath.Join(dir, "index.json"))
			must(t, err)
			if uid, _ := durable.Owner(info); !info.Mode().IsRegular() || uid != os.Geteuid() {
				t.Errorf("index.json is %v of user %d", info.Mode(), uid)
			}
		})
	}
}

func TestFoldersThatLeadOutAreNotFollowed(t *testing.T) {
	blobs := folder(t.TempDir())
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1")})
	must(t, err)
	for _, name := range []string{"blobs", "blobs/sha256"} {
		dir, elsewhere := t.TempDir(), t.TempDir()
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.Symlink(elsewhere, filepath.Join(dir, name)))
		d, err := tarwriter.CreateDir(dir, tarwriter.Options{Force: true})
		must(t, err)
		if _, err := d.Write(t.Context(), members, blobs, nil); err == nil {
			t.Errorf("%s: it was followed", name)
		}
		must(t, d.Close())
		if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
			t.Errorf("%s: written elsewhere: %v, %v", name, left, err)
		}
	}
}

func TestPlantedChecksumsAreNotWrittenTo(t *testing.T) {
	for name, plant := range planted {
		t.Run(name, func(t *testing.T) {
			blobs := folder(t.TempDir())
			members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1")})
			must(t, err)
			path := filepath.Join(t.TempDir(), "x.tar")
			precious := plant(t, path+".sha256.drayage-part")
			f, err := tarwriter.CreateFile(path, tarwriter.Options{Split: tarwriter.VolumeUnit})
			must(t, err)
			must(t, second(f.Write(t.Context(), members, blobs, nil)), f.Close())
			if precious != path+".sha256.drayage-part" {
				unharmed(t, precious)
			}
			info, err := os.Lstat(path + ".sha256")
			must(t, err)
			if uid, _ := durable.Owner(info); !info.Mode().IsRegular() || uid != os.Geteuid() {
				t.Errorf("the checksums are %v of user %d", info.Mode(), uid)
			}
		})
	}
}

// What is written is nobody else's to read before it has its name, and then what the umask says.
func TestModesOfArchives(t *testing.T) {
	blobs := folder(t.TempDir())
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1")})
	must(t, err)
	umask := syscall.Umask(0o027)
	defer syscall.Umask(umask)
	dir := t.TempDir()
	for _, split := range []int64{0, tarwriter.VolumeUnit} {
		path := filepath.Join(dir, "x.tar")
		f, err := tarwriter.CreateFile(path, tarwriter.Options{Split: split})
		must(t, err)
		_, err = f.Write(t.Context(), members, blobs, func(int64) {
			parts, _ := filepath.Glob(path + "*.drayage-part")
			for _, part := range parts {
				if info, err := os.Stat(part); err == nil && info.Mode().Perm() != 0o600 && !strings.Contains(part, ".sha256") {
					t.Errorf("%s is %v while it is written", part, info.Mode())
				}
			}
		})
		must(t, err, f.Close())
	}
	for _, name := range []string{"x.tar", "x.tar.001", "x.tar.sha256"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s is %v, %v", name, info.Mode(), err)
		}
	}
}

// A link at the archive's own name is not followed: without --force it is refused before any work
// is done, with it it is replaced.
func TestALinkAtTheArchivesNameIsNotFollowed(t *testing.T) {
	blobs := folder(t.TempDir())
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1")})
	must(t, err)
	for _, dangling := range []bool{false, true} {
		target, path := filepath.Join(t.TempDir(), "target"), filepath.Join(t.TempDir(), "x.tar")
		must(t, os.Symlink(target, path))
		if !dangling {
			must(t, os.WriteFile(target, []byte("precious"), 0o600))
		}
		if _, err := tarwriter.CreateFile(path, tarwriter.Options{}); !errors.Is(err, tarwriter.ErrExists) {
			t.Errorf("dangling %v: %v", dangling, err)
		}
		f, err := tarwriter.CreateFile(path, tarwriter.Options{Force: true})
		must(t, err)
		must(t, second(f.Write(t.Context(), members, blobs, nil)), f.Close())
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
			t.Errorf("dangling %v: it is %v, %v", dangling, info.Mode(), err)
		}
		if got, err := os.ReadFile(target); !dangling && string(got) != "precious" || dangling && err == nil {
			t.Errorf("dangling %v: the target is %q, %v", dangling, got, err)
		}
	}
}

// Somebody who may change the folder gives the part's name to a file of his own.
func TestAPartThatWasSwappedIsNoArchive(t *testing.T) {
	blobs := folder(t.TempDir())
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1")})
	must(t, err)
	for _, force := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "x.tar")
		f, err := tarwriter.CreateFile(path, tarwriter.Options{Force: force})
		must(t, err)
		swapped := false
		_, err = f.Write(t.Context(), members, blobs, func(int64) {
			if !swapped {
				swapped = true
				must(t, os.Remove(path+".drayage-part"), os.WriteFile(path+".drayage-part", bytes.Repeat([]byte("x"), 10), 0o644))
			}
		})
		if err == nil || !strings.Contains(err.Error(), "replaced by another process") {
			t.Errorf("force %v: %v", force, err)
		}
		must(t, f.Close())
	}
}

// In a folder where everybody may make names, what another user has put at the output's own name
// is not written to.
func TestOutputsPlantedInSharedFolders(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	shared := t.TempDir()
	must(t, os.Chmod(shared, fs.ModeSticky|0o777))
	pipe, dir := filepath.Join(shared, "x.tar"), filepath.Join(shared, "dir")
	must(t, syscall.Mkfifo(pipe, 0o666), os.Chown(pipe, stranger, stranger), os.Mkdir(dir, 0o777), os.Chown(dir, stranger, stranger))
	if _, err := tarwriter.CreateFile(pipe, tarwriter.Options{}); !errors.Is(err, durable.ErrForeign) {
		t.Errorf("a pipe: %v", err)
	}
	if _, err := tarwriter.CreateDir(dir, tarwriter.Options{}); !errors.Is(err, durable.ErrForeign) {
		t.Errorf("a folder: %v", err)
	}
	must(t, os.Chown(dir, os.Geteuid(), 0))
	d, err := tarwriter.CreateDir(dir, tarwriter.Options{})
	must(t, err, d.Close())
}
