package tarwriter

import (
	"crypto/sha256"
	"encoding/json"

	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
)

// format is the version of what an archive of the same members consists of. It changes whenever they
// result in other bytes.
const format = 1

// Fingerprint identifies the bytes of an archive of members that is compressed as a whole by c: archives
// of one fingerprint are the same to the byte.
func Fingerprint(members []Member, c compress.Format) (digest.Digest, error) {
	sum := sha256.New()
	out := json.NewEncoder(sum)
	err := out.Encode([]any{format, compress.Version, c.String()})
	for _, m := range members {
		if err != nil {
			return "", err
		}
		m.Layer = false // of no matter to the bytes
		err = out.Encode(m)
	}
	return digest.NewDigest(digest.SHA256, sum), err
}
