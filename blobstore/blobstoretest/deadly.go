package blobstoretest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"drayage/blobstore/durable"
)

// Deadly is a disk at one of whose calls the process dies, as by kill -9.
type Deadly struct {
	durable.OS
	point Point
	calls atomic.Int64
}

// Point names a moment: before or after the nth call of a kind.
type Point struct {
	Call  string // one of Calls
	After bool
	Nth   int64 // from 1
}

// Calls are the kinds of calls that a Point may name.
func Calls() []string {
	return []string{"open data", "open journal", "truncate data", "reserve data", "write data", "write journal", "truncate journal",
		"sync data", "sync journal", "rename data", "sync folder"}
}

// String is the form that ParsePoint reads.
func (p Point) String() string {
	when := "before"
	if p.After {
		when = "after"
	}
	return fmt.Sprintf("%s:%d:%s", when, p.Nth, p.Call)
}

// ParsePoint reads a point.
func ParsePoint(s string) (Point, error) {
	parts := strings.SplitN(s, ":", 3)
	if len(parts) != 3 {
		return Point{}, fmt.Errorf("%q is no point", s)
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	return Point{Call: parts[2], After: parts[0] == "after", Nth: n}, err
}

// NewDeadly makes a disk that kills at a point.
func NewDeadly(p Point) *Deadly { return &Deadly{point: p} }

// call does a call, and dies before or after it when it is the one.
func (d *Deadly) call(name string, do func() error) error {
	now := name == d.point.Call && d.calls.Add(1) == d.point.Nth
	if now && !d.point.After {
		die()
	}
	err := do()
	if now {
		die()
	}
	return err
}

func die() {
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Kill() // nothing can be done about it
	}
	select {}
}

// Open implements durable.Disk.
func (d *Deadly) Open(path string) (f durable.File, err error) {
	err = d.call("open "+filepath.Base(path), func() error { f, err = d.OS.Open(path); return err })
	if err != nil {
		return nil, err
	}
	return &deadlyFile{File: f, disk: d, name: filepath.Base(path)}, nil
}

// Rename implements durable.Disk.
func (d *Deadly) Rename(from, to string) error {
	return d.call("rename "+filepath.Base(from), func() error { return d.OS.Rename(from, to) })
}

// SyncFolder implements durable.Disk.
func (d *Deadly) SyncFolder(path string) error {
	return d.call("sync folder", func() error { return d.OS.SyncFolder(path) })
}

type deadlyFile struct {
	durable.File
	disk *Deadly
	name string
}

func (f *deadlyFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.disk.call("write "+f.name, func() error { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *deadlyFile) Truncate(size int64) error {
	return f.disk.call("truncate "+f.name, func() error { return f.File.Truncate(size) })
}

func (f *deadlyFile) Reserve(off, n int64) error {
	return f.disk.call("reserve "+f.name, func() error { return f.File.Reserve(off, n) })
}

func (f *deadlyFile) SyncData() error {
	return f.disk.call("sync "+f.name, f.File.SyncData)
}
