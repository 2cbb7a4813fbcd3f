package chunk

import (
	"log/slog"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

// testFormat is a store small enough for a disk in memory.
func testFormat(fs vfs.FS) FormatOptions {
	return FormatOptions{ID: id.Store{1}, Incarnation: id.Incarnation{2}, FS: fs,
		LogFileBytes: 256 << 10, LogFilesMax: 6, ExtentBytes: 4 << 20}
}

const testTerm = time.Second

// testOpen opens a formatted store.
func testOpen(t testing.TB, fs vfs.FS, dir string, c clock.Clock) *Store {
	t.Helper()
	s, err := Open(dir, Options{FS: fs, Clock: c, LeaseTerm: testTerm, Logger: testLogger(t), Readers: 2, Putters: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && s.Err() == nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func testLogger(testing.TB) *slog.Logger { return slog.New(slog.DiscardHandler) }

func testNew(t testing.TB, fs vfs.FS, dir string, c clock.Clock) *Store {
	t.Helper()
	if _, err := Format(dir, testFormat(fs)); err != nil {
		t.Fatal(err)
	}
	return testOpen(t, fs, dir, c)
}

func conformOn(t *testing.T, fs func() vfs.FS, dir func(t *testing.T) string) {
	storetest.Run(t, func(t *testing.T) *storetest.Harness {
		m := clock.NewManual()
		fs, dir := fs(), dir(t)
		s := testNew(t, fs, dir, m)
		m.Advance(testTerm)
		return &storetest.Harness{Store: s, Advance: m.Advance, LeaseTerm: testTerm, Restart: func() storeproto.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = testOpen(t, fs, dir, m)
			return s
		}}
	})
}

// Without this the store on a disk could break the seam's contract.
func TestConformanceInMemory(t *testing.T) {
	conformOn(t, func() vfs.FS { return vfs.Wrap(pvfs.NewMem()) }, func(*testing.T) string { return "/store" })
}

// Without this the store could keep its promises in memory only, and break them on real files.
func TestConformanceOnDisk(t *testing.T) {
	conformOn(t, func() vfs.FS { return vfs.OS }, func(t *testing.T) string { return t.TempDir() })
}
