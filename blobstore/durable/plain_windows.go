package durable

import "io/fs"

// NoFollow has no counterpart here.
const NoFollow = 0

const plainByName = true

func notPlain(error) bool { return false }

// ownership can't be told here.
func ownership(fs.FileInfo) (uid int, links uint64, ok bool) { return 0, 0, false }

// Owner can't be told here.
func Owner(fs.FileInfo) (uid int, ok bool) { return 0, false }
