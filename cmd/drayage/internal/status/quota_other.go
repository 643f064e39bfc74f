//go:build !unix

package status

import "syscall"

// errQuota is the system's word for a full disk, where there are no quotas of their own.
const errQuota = syscall.ENOSPC
