package blobstore

import "testing"

func FuzzDecodeRoot(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"x","target":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"blobs":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeRoot(raw)
		if err != nil {
			return
		}
		for _, d := range append(r.Blobs, r.Target.Digest) {
			if d.Validate() != nil {
				t.Errorf("let digest %q pass", d)
			}
		}
	})
}

func FuzzDecodeDerived(f *testing.F) {
	const some = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	f.Add([]byte(`{"version":1,"from":"` + some + `","form":"tar","blob":{"digest":"` + some + `","size":1},"diffID":"` + some + `"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := decodeDerived(raw)
		if err == nil && (d.From.Validate() != nil || d.DiffID.Validate() != nil || d.Blob.Digest != "" && d.Blob.Digest.Validate() != nil || d.Blob.Size < 0) {
			t.Errorf("let %+v pass", d)
		}
	})
}
