package chunk

import (
	"sync"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/vfs"
)

// Without this a power loss while a store opens could leave the name of the index's newest manifest and not the manifest:
// the names of a directory that were not synced need not survive in the order in which they came.
func TestStoreOpensAfterACutInItsOpening(t *testing.T) {
	fs := vfs.NewCrash()
	if _, err := Format("/store", testFormat(fs)); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var clones []*vfs.Crash
	fs.OnSync(func(n int) {
		mu.Lock()
		defer mu.Unlock()
		for seed := range uint64(12) {
			clones = append(clones, fs.Clone(50, uint64(n)*100+seed))
		}
	})
	s := testOpen(t, fs, "/store", clock.NewManual())
	fs.OnSync(nil)
	if len(clones) < 24 {
		t.Fatalf("the opening was cut %d times only", len(clones))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for i, c := range clones {
		s, err := Open("/store", Options{FS: c, Clock: clock.NewManual(), LeaseTerm: testTerm, Logger: testLogger(t), Readers: 2, Putters: 2})
		if err != nil {
			t.Fatalf("cut %d of %d: %v", i, len(clones), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
