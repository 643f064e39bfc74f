package output

import "github.com/spf13/pflag"

// Add adds the flags to a command's.
func (o *Flags) Add(f *pflag.FlagSet) {
	f.StringVarP(&o.File, "output", "o", "", "write all images into one archive `FILE`, complete or not at all")
	f.BoolVarP(&o.Stdout, "stdout", "O", false, "write the archive to standard output")
	f.BoolVarP(&o.Load, "load", "l", false, "stream the archive into docker load")
	f.StringVar(&o.loadWith, "load-with", "", "stream the archive into another `PROGRAM`: docker, podman, nerdctl or ctr")
	f.StringVarP(&o.Dir, "dir", "d", "", "write the layout as an unpacked folder `DIR`")
	f.BoolVar(&o.Force, "force", false, "overwrite FILE, or write into a DIR that is not empty")
	f.StringVar(&o.Format, "format", "docker", "`FORMAT` of the archive: docker, which all loaders take; oci, a plain OCI layout; legacy, what docker save once wrote")
	f.StringVar(&o.Layers, "layers", "keep", "layers as `FORM`: keep, as the registry serves them; tar, without compression, or gzip, for daemons that can't read zstd")
	o.MaxRatio.Add(f)
	f.StringVar(&o.compress, "compress", "", "compress the archive with `FORMAT`: none, gzip or zstd (default none, or by FILE's ending: .gz, .tgz, .zst)")
	f.Var(&o.split, "split", "cut the archive into volumes FILE.001, FILE.002 ... of at most `SIZE`: 4.7G, 4095MiB")
	f.StringVar(&o.Since, "since", "", "leave out the layers that `FILE` carried: an earlier archive, a list of digests, or a lock")
	f.BoolVar(&o.strip, "strip-registry", false, "name images in the archive without their registry")
	f.BoolVar(&o.Verify, "verify", false, "hash everything that is composed, also what the store has verified before")
}
