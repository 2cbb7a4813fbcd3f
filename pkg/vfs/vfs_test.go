package vfs

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/buf"
)

// Without this the bodies would differ, and a store proven in memory would fail on a disk.
func TestBodiesKeepTheContract(t *testing.T) {
	for name, c := range map[string]struct {
		fs  FS
		dir string
	}{
		"os":     {OS, t.TempDir()},
		"memory": {Wrap(pvfs.NewMem()), "/"},
		"hooked": {WithHooks(Wrap(pvfs.NewMem()), Hooks{}), "/"},
		"crash":  {NewCrash(), "/"},
	} {
		t.Run(name, func(t *testing.T) { conform(t, c.fs, c.dir) })
	}
}

func conform(t *testing.T, fs FS, dir string) {
	name := filepath.Join(dir, "f")
	if _, err := fs.OpenDirect(name, false); !IsNotExist(err) {
		t.Fatalf("open of a file that is not there: %v", err)
	}
	f, err := fs.OpenDirect(name, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.OpenDirect(name, true); err == nil {
		t.Error("creating a file twice must fail")
	}
	if err := f.Preallocate(0, 8*Align); err != nil {
		t.Fatal(err)
	}
	if err := Prewrite(f, 0, 8*Align); err != nil {
		t.Fatal(err)
	}
	b := buf.Get(3 * Align)
	defer b.Release()
	for i := range b.Bytes() {
		b.Bytes()[i] = byte(i / 512)
	}
	pieces := [][]byte{b.Bytes()[:Align], nil, b.Bytes()[Align:]}
	if n, err := f.WritevAt(pieces, 2*Align); n != 3*Align || err != nil {
		t.Fatalf("WritevAt: %d %v", n, err)
	}
	if err := f.SyncData(); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Size(); n != 8*Align || err != nil {
		t.Errorf("size %d %v", n, err)
	}
	r := buf.Get(3 * Align)
	defer r.Release()
	if _, err := f.ReadAt(r.Bytes(), 2*Align); err != nil || !bytes.Equal(r.Bytes(), b.Bytes()) {
		t.Errorf("read back: %v", err)
	}
	if _, err := f.ReadAt(r.Bytes(), 64*Align); !errors.Is(err, io.EOF) {
		t.Errorf("read beyond the end: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	lock := filepath.Join(dir, "LOCK")
	l, err := fs.LockFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fs.LockFile(lock); err == nil {
		t.Error("two have the lock")
	}
	l.Close()
	if l, err = fs.LockFile(lock); err != nil {
		t.Errorf("lock after it was given back: %v", err)
	} else {
		l.Close()
	}
}

// Without this a crash test would find its data although nothing was synced.
func TestCloneLosesWhatWasNotSynced(t *testing.T) {
	fs := NewCrash()
	f, err := fs.OpenDirect("/f", true)
	if err != nil {
		t.Fatal(err)
	}
	one, two := bytes.Repeat([]byte{1}, Align), bytes.Repeat([]byte{2}, Align)
	var before *Crash
	fs.OnSync(func(n int) {
		if before == nil {
			before = fs.Clone(0, 1)
		}
	})
	if _, err := f.WriteAt(one, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.SyncData(), SyncDir(fs, "/")); err != nil {
		t.Fatal(err)
	}
	if _, err := before.OpenDirect("/f", false); err == nil {
		t.Error("the file is there before its directory was synced")
	}
	if _, err := f.WriteAt(two, 0); err != nil {
		t.Fatal(err)
	}
	g, err := fs.Clone(0, 1).OpenDirect("/f", false)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, Align)
	if _, err := g.ReadAt(got, 0); err != nil || !bytes.Equal(got, one) {
		t.Errorf("after the crash: %v", err)
	}
}

// Without this the faults that tests ask for would not happen.
func TestHooksInject(t *testing.T) {
	var fail error
	fs := WithHooks(Wrap(pvfs.NewMem()), Hooks{
		Before: func(op Op) error {
			if op.Kind == OpWrite || op.Kind == OpSync {
				return fail
			}
			return nil
		},
		AfterRead: func(_ Op, p []byte) { p[0] ^= 0x80 },
	})
	f, err := fs.OpenDirect("/f", true)
	if err != nil {
		t.Fatal(err)
	}
	page := bytes.Repeat([]byte{1}, 2*Align)
	if _, err := f.WriteAt(page, 0); err != nil {
		t.Fatal(err)
	}
	fail = ErrNoSpace
	if _, err := f.WriteAt(page, 0); !IsNoSpace(err) {
		t.Errorf("write on a full disk: %v", err)
	}
	if err := f.SyncData(); !IsNoSpace(err) {
		t.Errorf("sync: %v", err)
	}
	fail = ShortWrite(Align)
	if n, err := f.WritevAt([][]byte{page[:Align], page[Align:]}, 0); n != Align || !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("short write: %d %v", n, err)
	}
	got := make([]byte, Align)
	if _, err := f.ReadAt(got, 0); err != nil || got[0] != 0x81 {
		t.Errorf("read %x %v", got[0], err)
	}
	if _, err := f.ReadAt(got, 100); err == nil {
		t.Error("an offset that direct I/O refuses was taken")
	}
}

// Without this a power cut of several file systems would not be of one moment: what was
// told to be synced after the first was cloned would be missing in it.
func TestCutTellsNobodyOfASyncThatCameTooLate(t *testing.T) {
	fs := NewCrash()
	f, err := fs.OpenDirect("/f", true)
	if err != nil {
		t.Fatal(err)
	}
	fs.OnSync(func(int) { fs.Cut() })
	if err := f.SyncData(); !errors.Is(err, ErrPowerOff) {
		t.Errorf("a sync that was under way: %v", err)
	}
	if _, err := f.WriteAt(make([]byte, Align), 0); !errors.Is(err, ErrPowerOff) {
		t.Errorf("a write after the cut: %v", err)
	}
	if _, err := fs.Clone(0, 1).OpenDirect("/g", true); err != nil {
		t.Errorf("its clone: %v", err)
	}
}
