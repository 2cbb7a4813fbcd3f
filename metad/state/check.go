package state

import (
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// CheckDiskName refuses names that would be mistaken or that tools cannot take.
func CheckDiskName(name string) error {
	if !PlainName(name, NameMax) {
		return fmt.Errorf("disk name %.140q: want 1 to %d letters, digits, '-', '_' and '.', the first a letter or digit: %w", name, NameMax, errs.ErrInvalid)
	}
	if _, err := id.ParseVolume(name); err == nil {
		return fmt.Errorf("disk name %q has the form of a disk's id: %w", name, errs.ErrInvalid)
	}
	return nil
}

// CheckSnapshotName refuses names that would be mistaken or that tools cannot take.
func CheckSnapshotName(name string) error {
	if !PlainName(name, NameMax) {
		return fmt.Errorf("snapshot name %.140q: want 1 to %d letters, digits, '-', '_' and '.', the first a letter or digit: %w", name, NameMax, errs.ErrInvalid)
	}
	if _, err := id.ParseSnapshot(name); err == nil {
		return fmt.Errorf("snapshot name %q has the form of a snapshot's id: %w", name, errs.ErrInvalid)
	}
	return nil
}

// CheckDiskSize refuses sizes that are not whole blocks or out of bounds.
func CheckDiskSize(size uint64) error {
	if size%block.Size != 0 || size < DiskSizeMin || size > DiskSizeMax {
		return fmt.Errorf("disk size %d: want a multiple of %d from 1 MiB to 1 PiB: %w", size, block.Size, errs.ErrInvalid)
	}
	return nil
}
