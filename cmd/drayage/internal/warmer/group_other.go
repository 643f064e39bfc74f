//go:build !unix

package warmer

import "os/exec"

// ownGroup leaves a command as it is, where there are no process groups.
func ownGroup(*exec.Cmd) {}
