package space

import (
	"errors"
	"testing"

	"drayage/blobstore/durable"

	"github.com/opencontainers/go-digest"
)

// fixedDisk has so many bytes free, nothing of any blob, and others that need some.
type fixedDisk struct{ free, others int64 }

func (d fixedDisk) Free() (int64, error)                  { return d.free, nil }
func (d fixedDisk) Arrived(digest.Digest) int64           { return 0 }
func (d fixedDisk) Others(func(digest.Digest) bool) int64 { return d.others }

// A blob is refused when it doesn't fit with what else is on its way, and fits when that has ended.
func TestBeginCountsWhatIsComing(t *testing.T) {
	var c Coming
	a, b := digest.FromString("a"), digest.FromString("b")
	disk := fixedDisk{free: 10 << 20, others: 1 << 20}
	ended, _, _ := c.Begin(disk, a, 5<<20)
	if ended == nil {
		t.Fatal("5 MiB of 9 are refused")
	}
	again, _, _ := c.Begin(disk, a, 5<<20) // whoever else waits for it
	if again == nil {
		t.Fatal("the same blob is refused")
	}
	if refused, need, free := c.Begin(disk, b, 4<<20+1); refused != nil || need != 10<<20+1 || free != disk.free {
		t.Errorf("a byte too much: needs %d of %d", need, free)
	}
	ended()
	ended()
	if refused, _, _ := c.Begin(disk, b, 5<<20); refused != nil {
		t.Error("a blob that another still waits for isn't counted")
	}
	again()
	if fits, _, _ := c.Begin(disk, b, 9<<20); fits == nil {
		t.Error("what fits is refused")
	}
}

// reserved counts what is reserved of a file.
type reserved struct {
	durable.File // nil: nothing else is called
	bytes        int64
	fail         error
}

func (r *reserved) Reserve(_, n int64) error { r.bytes += n; return r.fail }

// What is reserved covers what was written, and runs ahead of it by a bounded share.
func TestReservationFollowsWhatIsWritten(t *testing.T) {
	const size, piece = 1 << 30, 1 << 20
	f := new(reserved)
	var r Reservation
	if err := r.Begin(f, size); err != nil || f.bytes != First {
		t.Fatalf("%d bytes at first, %v", f.bytes, err)
	}
	for off := int64(0); off < size/2; off += piece {
		if err := r.Reserve(f, size, off, piece); err != nil {
			t.Fatal(err)
		}
		if written := off + piece; f.bytes < written || f.bytes > written+First+Ahead(written) {
			t.Fatalf("%d written, %d reserved", written, f.bytes)
		}
	}
	f.fail = errors.New("full")
	if err := r.Reserve(f, size, size-piece, piece); !errors.Is(err, f.fail) {
		t.Errorf("a full disk: %v", err)
	}
}
