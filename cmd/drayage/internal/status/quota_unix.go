//go:build unix

package status

import "syscall"

// errQuota is the system's word for a disk quota that is used up.
const errQuota = syscall.EDQUOT
