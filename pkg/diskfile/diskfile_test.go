package diskfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/errs"
)

// make runs qemu-img create in a folder and gives the file.
func create(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: deploy/dev/install-tools does it")
	}
	cmd := exec.Command("qemu-img", append([]string{"create", "-q"}, append(args, name, "4M")...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-img create %v: %v %s", args, err, out)
	}
	return filepath.Join(dir, name)
}

func sniff(t *testing.T, path string, want Format) (Format, *os.File, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	is, err := Sniff(f, s.Size(), want)
	return is, f, err
}

// Without this a file that people have would not be taken, or for what it is not.
func TestFilesAreWhatTheyAre(t *testing.T) {
	dir := t.TempDir()
	tool, err := Find()
	if err != nil {
		t.Skip("qemu-img is not installed: deploy/dev/install-tools does it")
	}
	for name, x := range map[string]struct {
		is   Format
		args []string
	}{
		"raw":       {Raw, []string{"-f", "raw"}},
		"qcow2":     {QCOW2, []string{"-f", "qcow2"}},
		"qcow2-v2":  {QCOW2, []string{"-f", "qcow2", "-o", "compat=0.10"}},
		"qcow2-l2":  {QCOW2, []string{"-f", "qcow2", "-o", "extended_l2=on,cluster_size=128k"}},
		"vhd":       {VPC, []string{"-f", "vpc", "-o", "force_size=on"}},
		"vhd-fixed": {VPC, []string{"-f", "vpc", "-o", "subformat=fixed,force_size=on"}},
		"vhdx":      {VHDX, []string{"-f", "vhdx"}},
		"vmdk":      {VMDK, []string{"-f", "vmdk"}},
		"streamed":  {VMDK, []string{"-f", "vmdk", "-o", "subformat=streamOptimized"}},
		"vdi":       {VDI, []string{"-f", "vdi"}},
	} {
		path := create(t, dir, name, x.args...)
		is, f, err := sniff(t, path, "")
		if err != nil || is != x.is {
			t.Errorf("%s is %s: %v", name, is, err)
			continue
		}
		if n, err := tool.Inspect(context.Background(), f, is); err != nil || n != 4<<20 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if _, _, err := sniff(t, path, x.is); err != nil {
			t.Errorf("%s, said to be so: %v", name, err)
		}
		if is, _, err := sniff(t, path, Raw); err != nil || is != Raw {
			t.Errorf("%s as raw bytes: %s, %v", name, is, err)
		}
	}
	if _, _, err := sniff(t, filepath.Join(dir, "vmdk"), QCOW2); !errors.Is(err, errs.ErrInvalid) || !strings.Contains(err.Error(), "but vmdk") {
		t.Errorf("what it is not: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "zip"), append([]byte{0x1f, 0x8b}, make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := sniff(t, filepath.Join(dir, "zip"), ""); !errors.Is(err, errs.ErrInvalid) || !strings.Contains(err.Error(), "unpack") {
		t.Errorf("compressed: %v", err)
	}
}

// Without this whoever hands in a file could read any other that the program may read: it would be in the image.
func TestFilesThatNameOthersAreRefused(t *testing.T) {
	dir := t.TempDir()
	create(t, dir, "base", "-f", "raw")
	create(t, dir, "base.vmdk", "-f", "vmdk")
	for name, args := range map[string][]string{
		"backing":      {"-f", "qcow2", "-b", "base", "-F", "raw"},
		"data file":    {"-f", "qcow2", "-o", "data_file=elsewhere"},
		"encrypted":    {"-f", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s"},
		"flat":         {"-f", "vmdk", "-o", "subformat=monolithicFlat"},
		"two gigs":     {"-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"},
		"vmdk's child": {"-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk"},
	} {
		path := create(t, dir, name, args...)
		if is, _, err := sniff(t, path, ""); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: taken as %s: %v", name, is, err)
		}
	}
}

// header makes a file of nothing but a header.
func header(set func(b []byte)) []byte {
	b := make([]byte, 4096)
	set(b)
	return b
}

// Headers that no honest program writes, and that have been used to read what should not be read.
func TestForgedHeadersAreRefused(t *testing.T) {
	vmdk := func(text string, capacity, at uint64) []byte {
		return header(func(b []byte) {
			copy(b, "KDMV")
			binary.LittleEndian.PutUint64(b[12:], capacity)
			binary.LittleEndian.PutUint64(b[28:], at)
			binary.LittleEndian.PutUint64(b[36:], 2)
			copy(b[512:], text)
		})
	}
	const honest = "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 8192 SPARSE \"x.vmdk\"\n"
	qcow := func(version uint32, features uint64) []byte {
		return header(func(b []byte) {
			copy(b, "QFI\xfb")
			binary.BigEndian.PutUint32(b[4:], version)
			binary.BigEndian.PutUint64(b[72:], features)
		})
	}
	for name, b := range map[string][]byte{
		"vmdk without capacity": vmdk(honest, 0, 1),
		"vmdk of another type":  vmdk(strings.Replace(honest, "monolithicSparse", "monolithicFlat", 1), 8192, 1),
		"vmdk of two types":     vmdk(honest+"createType=\"monolithicFlat\"\n", 8192, 1),
		"vmdk of two files":     vmdk(honest+"RW 1 FLAT \"/etc/shadow\" 0\n", 8192, 1),
		"vmdk with a parent":    vmdk(strings.Replace(honest, "ffffffff", "12345678", 1), 8192, 1),
		"vmdk far descriptor":   vmdk(honest, 8192, 1<<60),
		"vmdk in words":         []byte(strings.Replace(honest, "SPARSE", "FLAT", 1)),
		"vmdk in other words":   []byte("#x\nversion=1\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"/etc/shadow\" 0\n"),
		"qcow2 of the future":   qcow(4, 0),
		"qcow2, data elsewhere": qcow(3, 1<<2),
		"qcow2, unknown":        qcow(3, 1<<20),
		"vhd with a parent":     header(func(b []byte) { copy(b, "conectix"); b[63] = 4 }),
		"vhd at the end":        header(func(b []byte) { copy(b[4096-512:], "conectix"); b[4096-512+63] = 4 }),
	} {
		if is, err := Sniff(bytes.NewReader(b), int64(len(b)), ""); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: taken as %s: %v", name, is, err)
		}
	}
	for name, b := range map[string][]byte{"vmdk": vmdk(honest, 8192, 1), "qcow2": qcow(3, 1), "an empty file": nil, "a short one": []byte("QF")} {
		if is, err := Sniff(bytes.NewReader(b), int64(len(b)), ""); err != nil {
			t.Errorf("%s: %s: %v", name, is, err)
		}
	}
}

// FuzzSniff: a file may be anything. What is taken as what names files has none.
func FuzzSniff(f *testing.F) {
	for _, s := range []string{"QFI\xfb", "KDMV", "COWD", "conectix", "vhdxfile", "# Disk DescriptorFile\n", "\x1f\x8b"} {
		f.Add(append([]byte(s), make([]byte, 600)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		is, err := Sniff(bytes.NewReader(b), int64(len(b)), "")
		if err != nil && !errors.Is(err, errs.ErrInvalid) {
			t.Fatalf("an error of no class: %v", err)
		}
		if err == nil && is == QCOW2 && len(b) >= 16 && binary.BigEndian.Uint64(b[8:]) != 0 {
			t.Fatal("a backing file was not seen")
		}
	})
}

// Without this people would see nothing for an hour, or nonsense.
func TestProgressIsRead(t *testing.T) {
	var got []uint32
	p := &percent{each: func(done uint32) { got = append(got, done) }}
	for _, s := range []string{"    (0.00/100%)\r   ", " (12.5", "0/100%)\r    (100.00/100%)\r\n", "nonsense\n", strings.Repeat("x", 1000)} {
		if _, err := p.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 3 || got[0] != 0 || got[1] != 12500 || got[2] != 100000 || len(p.line) > 64 {
		t.Errorf("%v, %d bytes kept", got, len(p.line))
	}
}

// Without this an address could smuggle options to qemu-img.
func TestAddressesAreQuoted(t *testing.T) {
	_, node, err := nbdOptions("nbd+unix:///d-1%2Cx?socket=/run/a,b/s")
	if err != nil || node != "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=/run/a,,b/s,file.export=d-1,,x,file.reconnect-delay=30" {
		t.Errorf("%s %v", node, err)
	}
	objects, node, err := nbdOptions("nbds://h:10809/d-1?tls-certificates=/c")
	if err != nil || len(objects) != 2 || !strings.HasSuffix(node, "tls-creds=tls0") || !strings.Contains(node, "server.port=10809") {
		t.Errorf("%v %s %v", objects, node, err)
	}
	if _, _, err := nbdOptions("nbd://nowhere/x"); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("no port: %v", err)
	}
}
