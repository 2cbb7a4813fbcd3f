package diskfile

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/errs"
)

// Without this an export onto a full disk would be blamed on the file.
func TestFullDiskIsNoWrongFile(t *testing.T) {
	if err := classOf("qemu-img: error while writing at byte 6291456: No space left on device"); !errors.Is(err, errs.ErrNoSpace) {
		t.Error(err)
	}
	if err := classOf("qemu-img: Could not open: Image is corrupt"); !errors.Is(err, errs.ErrInvalid) {
		t.Error(err)
	}
}
