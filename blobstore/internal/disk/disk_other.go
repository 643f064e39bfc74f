//go:build !linux

package disk

import (
	"errors"
	"os"
)

// Boot tells this run of the system from those before. It is "" when that
// can't be told, as here.
func Boot() string { return "" }

// Free is how many bytes a user may still write to the file system of path.
// Here it can't be told.
func Free(string) (free int64, shares bool, err error) { return 0, false, errors.ErrUnsupported }

// DontCache does nothing here.
func DontCache(*os.File) {}
