package diskfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"ashlar.dev/pkg/errs"
)

// Format is how a file holds a disk, as qemu-img names it.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
	VPC   Format = "vpc" // VHD
	VHDX  Format = "vhdx"
	VMDK  Format = "vmdk"
	VDI   Format = "vdi"
)

// Formats are all of them.
var Formats = []Format{Raw, QCOW2, VPC, VHDX, VMDK, VDI}

// headBytes is how much of a file's beginning is looked at.
const headBytes = 1 << 20

// Sniff tells what a file is; want is what it is said to be, or empty. A file that depends on another one, is encrypted
// or needs features that are not known is refused (errs.ErrInvalid): so is one that is not what it is said to be. Anything may be
// taken as raw: then its bytes are the disk's.
func Sniff(f io.ReaderAt, size int64, want Format) (Format, error) {
	head := make([]byte, min(size, headBytes))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the beginning of the file: %w", err)
	}
	tail := make([]byte, min(size, 512))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the end of the file: %w", err)
	}
	is := formatOf(head, tail)
	switch {
	case want == Raw:
		return Raw, nil
	case is == "" && want == "":
		return "", refuse("it is compressed by a program; unpack it first, or say that its bytes are the disk's (raw)")
	case want != "" && is != want:
		return "", refuse("it is no %s file, but %s", want, nameOf(is))
	}
	return is, check(is, head, tail)
}

func nameOf(f Format) string {
	if f == "" {
		return "a compressed one"
	}
	return string(f)
}

// packed are the first bytes of what compressing programs write.
var packed = []string{"\x1f\x8b", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "BZh", "PK\x03\x04", "7z\xbc\xaf\x27\x1c"}

// formatOf goes by magic numbers. Empty: compressed.
func formatOf(head, tail []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return QCOW2
	case bytes.HasPrefix(head, []byte("KDMV")), bytes.HasPrefix(head, []byte("COWD")), isDescriptor(head):
		return VMDK
	case bytes.HasPrefix(head, []byte("vhdxfile")):
		return VHDX
	case bytes.HasPrefix(head, []byte("conectix")), bytes.HasPrefix(tail, []byte("conectix")):
		return VPC
	case len(head) >= 72 && binary.LittleEndian.Uint32(head[64:]) == 0xbeda107f:
		return VDI
	}
	for _, p := range packed {
		if bytes.HasPrefix(head, []byte(p)) {
			return ""
		}
	}
	return Raw
}

// isDescriptor tells the text form of VMDK: lines, of which the first that is no comment names the version. It may be all there is.
func isDescriptor(head []byte) bool {
	text := strings.ToLower(string(head[:min(len(head), 512)]))
	return strings.HasPrefix(text, "# disk descriptorfile") || strings.HasPrefix(text, "version=") || strings.HasPrefix(text, "#") && strings.Contains(text, "\nversion=")
}

func refuse(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errs.ErrInvalid)...)
}

// check refuses files that are no whole disks by themselves.
func check(is Format, head, tail []byte) error {
	switch is {
	case QCOW2:
		return checkQCOW2(head)
	case VMDK:
		return checkVMDK(head)
	case VPC:
		return checkVPC(head, tail)
	}
	return nil // qemu-img knows neither parents nor other files of the rest
}

// qcow2Features are the incompatible ones that do no harm: dirty, corrupt (qemu-img refuses it where it matters),
// compression type, extended L2 entries. Bit 2 is an external data file.
const qcow2Features = 1<<0 | 1<<1 | 1<<3 | 1<<4

func checkQCOW2(head []byte) error {
	if len(head) < 72 {
		return refuse("its header is cut off")
	}
	version := binary.BigEndian.Uint32(head[4:])
	switch {
	case version != 2 && version != 3:
		return refuse("it is qcow2 of version %d; 2 and 3 are known", version)
	case binary.BigEndian.Uint64(head[8:]) != 0:
		return refuse("it has a backing file, without which it is no disk; write all of it into one file first (qemu-img convert)")
	case binary.BigEndian.Uint32(head[32:]) != 0:
		return refuse("it is encrypted; decrypt it first")
	case version == 2:
		return nil
	case len(head) < 104:
		return refuse("its header is cut off")
	}
	features := binary.BigEndian.Uint64(head[72:])
	switch {
	case features&(1<<2) != 0:
		return refuse("its data are in another file; write all of it into one file first (qemu-img convert)")
	case features&^qcow2Features != 0:
		return refuse("it has features %#x that are not known", features&^qcow2Features)
	}
	return nil
}

// vmdkTypes are the types that are one file. The others name files: any that qemu-img may read.
var vmdkTypes = []string{"monolithicsparse", "streamoptimized"}

func checkVMDK(head []byte) error {
	if !bytes.HasPrefix(head, []byte("KDMV")) || len(head) < 512 {
		return refuse("it is a VMDK that names other files; bring it into one file first (monolithicSparse or streamOptimized)")
	}
	capacity, at, sectors := binary.LittleEndian.Uint64(head[12:]), binary.LittleEndian.Uint64(head[28:]), binary.LittleEndian.Uint64(head[36:])
	if capacity == 0 || at == 0 || at > headBytes/512 || sectors > headBytes/512 || (at+sectors)*512 > uint64(len(head)) {
		return refuse("it is a VMDK whose descriptor is elsewhere")
	}
	text := strings.ToLower(string(bytes.TrimRight(head[at*512:(at+sectors)*512], "\x00")))
	extents, kind := 0, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if k, v, ok := strings.Cut(line, "="); ok {
			switch strings.TrimSpace(k) {
			case "createtype":
				if kind != "" {
					return refuse("it is a VMDK of two types")
				}
				kind = strings.Trim(strings.TrimSpace(v), `"`)
			case "parentcid":
				if strings.TrimSpace(v) != "ffffffff" {
					return refuse("it is a VMDK with a parent; write all of it into one file first (qemu-img convert)")
				}
			case "parentfilenamehint":
				return refuse("it is a VMDK with a parent; write all of it into one file first (qemu-img convert)")
			}
		}
		if strings.HasPrefix(line, "rw ") || strings.HasPrefix(line, "rdonly ") || strings.HasPrefix(line, "noaccess ") {
			extents++
		}
	}
	for _, t := range vmdkTypes {
		if kind == t && extents <= 1 {
			return nil
		}
	}
	return refuse("it is a VMDK of type %.40q with %d extents, which may name other files; bring it into one file first (monolithicSparse or streamOptimized)", kind, extents)
}

// checkVPC refuses what differs from a parent. Type 2 is fixed, 3 dynamic.
func checkVPC(head, tail []byte) error {
	for _, b := range [][]byte{head, tail} {
		if len(b) < 512 || !bytes.HasPrefix(b, []byte("conectix")) {
			continue
		}
		if t := binary.BigEndian.Uint32(b[60:]); t != 2 && t != 3 {
			return refuse("it is a VHD of type %d, which is no disk by itself", t)
		}
	}
	return nil
}
