package listing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"drayage/engine/image"
	"drayage/engine/internal/limits"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReadReferrers reads the descriptors of a page, which are nil when there is no list of them. What
// has too many, or more than an index may have, is an image.ErrInvalid.
func ReadReferrers(raw []byte) (page []ocispec.Descriptor, err error) {
	if err := limits.CheckJSON(raw, ocispec.Index{}); err != nil {
		return nil, fmt.Errorf("%w: %w", image.ErrInvalid, err)
	}
	err = eachField(json.NewDecoder(bytes.NewReader(raw)), func(key string, d *json.Decoder) error {
		if !strings.EqualFold(key, "manifests") {
			return skipValue(d)
		}
		token, err := d.Token()
		if err != nil || token == nil {
			return err
		}
		if token != json.Delim('[') {
			return errNotObject
		}
		page = []ocispec.Descriptor{}
		for d.More() {
			if len(page) == limits.Referrers {
				return fmt.Errorf("%w: more than %d manifests", image.ErrInvalid, limits.Referrers)
			}
			var one ocispec.Descriptor
			if err := d.Decode(&one); err != nil {
				return err
			}
			page = append(page, one)
		}
		_, err = d.Token()
		return err
	})
	return page, err
}

// CheckReferrers refuses descriptors that could not be fetched.
func CheckReferrers(descs []ocispec.Descriptor) error {
	for _, d := range descs {
		if d.Digest.Validate() != nil || d.Size < 0 {
			return fmt.Errorf("%w: malformed digest or size in the list", image.ErrInvalid)
		}
	}
	return nil
}
