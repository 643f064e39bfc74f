// Package build knows which drayage this is.
package build

import "runtime/debug"

// version is set by the linker for releases; otherwise it is the commit's.
var version = ""

// Version is the version, as people and registries are told it.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "devel"
}
