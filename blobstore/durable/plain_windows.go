package durable

import (
	"errors"
	"io/fs"
)

// noFollow has no counterpart here.
const noFollow = 0

const (
	noLinks = 0
	noWait  = 0
)

const plainByName = true

func notPlain(error) bool { return false }

func wouldWait(error) bool { return false }

func duplicate(int) (int, error) { return 0, errors.ErrUnsupported }

// ownership can't be told here.
func ownership(fs.FileInfo) (uid int, links uint64, ok bool) { return 0, 0, false }

// Owner can't be told here.
func Owner(fs.FileInfo) (uid int, ok bool) { return 0, false }
