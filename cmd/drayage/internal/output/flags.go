package output

import "github.com/spf13/pflag"

// Add adds the flags to a command's.
func (o *Flags) Add(f *pflag.FlagSet) {
	f.StringVarP(&o.File, "output", "o", "", "write all images to one archive `FILE`")
	f.BoolVarP(&o.Stdout, "stdout", "O", false, "write the archive to standard output")
	f.BoolVarP(&o.Load, "load", "l", false, "load the images with docker load")
	f.StringVar(&o.loadWith, "load-with", "", "load the images with `PROGRAM`: docker, podman, nerdctl or ctr")
	f.StringVarP(&o.Dir, "dir", "d", "", "write the archive unpacked, to directory `DIR`")
	f.BoolVar(&o.Force, "force", false, "overwrite FILE, or write into a non-empty DIR")
	f.StringVar(&o.Format, "format", "docker", "archive `FORMAT`: docker, oci (OCI image layout) or legacy (old docker save)")
	f.StringVar(&o.Layers, "layers", "keep", "convert layers to `FORM`: keep (no conversion), tar or gzip")
	o.MaxRatio.Add(f)
	f.StringVar(&o.compress, "compress", "", "compress the archive with `FORMAT`: none, gzip or zstd (default: by FILE's extension)")
	f.Var(&o.split, "split", "split the archive into volumes FILE.001, ... of at most `SIZE`, e.g. 4.7G")
	f.StringVar(&o.Since, "since", "", "omit layers contained in `FILE`: an earlier archive, digest list or lock file")
	f.BoolVar(&o.strip, "strip-registry", false, "omit the registry from image names in the archive")
	f.BoolVar(&o.Verify, "verify", false, "verify the digests of all blobs again while writing")
}
