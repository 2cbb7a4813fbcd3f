package chunk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

// rotten is a store on a disk whose files a test damages behind its back.
type rotten struct {
	t      *testing.T
	dir    string
	s      *Store
	shards []*storeproto.PutShard
}

const rottenBlocks = 200 // of each shard: four fit into an extent file

func newRotten(t *testing.T, shards int) *rotten {
	r := &rotten{t: t, dir: t.TempDir()}
	r.s = testNew(t, vfs.OS, r.dir, clock.NewManual())
	for n := range shards {
		p := storetest.Shard(id.MakeSegment(id.Sequence(10+n), 1), id.Generation{Epoch: 3, N: 1}, uint8(n%6), rottenBlocks, uint64(n))
		want(t, "put", storetest.Put(r.s, p), nil)
		r.shards = append(r.shards, p)
	}
	return r
}

// reopen does something to the files while the store is closed.
func (r *rotten) reopen(f func(extents string)) {
	r.t.Helper()
	if err := r.s.Close(); err != nil {
		r.t.Fatal(err)
	}
	f(filepath.Join(r.dir, "extents"))
	r.s = testOpen(r.t, vfs.OS, r.dir, clock.NewManual())
}

func (r *rotten) place(n int) extent.Place {
	r.t.Helper()
	h := r.shards[n].Head
	row, _, err := r.s.findShard(shardName{h.Segment, h.Generation, h.Index})
	if err != nil {
		r.t.Fatal(err)
	}
	return row.place
}

func (r *rotten) file(p extent.Place) string {
	return filepath.Join(r.dir, "extents", extentName(p[0].File))
}

func (r *rotten) verify(n int) error {
	return r.s.VerifyShard(r.t.Context(), r.shards[n].Head.Info().ShardName, func(int) error { return nil })
}

// expect wants exactly the named shards to be wrong, mends them and wants all right.
func (r *rotten) expect(wrong ...int) {
	r.t.Helper()
	bad := make(map[int]bool)
	for _, n := range wrong {
		bad[n] = true
	}
	for n, p := range r.shards {
		h := p.Head
		class := error(nil)
		if bad[n] {
			class = errs.ErrCorrupt
		}
		want(r.t, fmt.Sprintf("verify shard %d", n), r.verify(n), class)
		want(r.t, fmt.Sprintf("read shard %d", n), storetest.Read(r.s, h.Segment, h.Generation, h.Index, 0, rottenBlocks).Err, class)
	}
	suspects := r.s.Suspects()
	if len(suspects) != len(wrong) {
		r.t.Errorf("%d suspects, want %d", len(suspects), len(wrong))
	}
	for _, n := range wrong {
		want(r.t, "replace", r.s.ReplaceShard(r.t.Context(), r.shards[n]), nil)
	}
	for round := range 2 {
		for n, p := range r.shards {
			h := p.Head
			want(r.t, "verify after", r.verify(n), nil)
			got := storetest.Read(r.s, h.Segment, h.Generation, h.Index, 0, rottenBlocks)
			want(r.t, "read after", got.Err, nil)
			if string(got.Dst) != string(p.Data[0]) {
				r.t.Errorf("shard %d has other bytes", n)
			}
		}
		if round == 0 {
			r.reopen(func(string) {})
		}
	}
}

// write puts bytes into a file as a disk that lies does.
func (r *rotten) write(name string, at int64, b []byte) {
	r.t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b, at)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// A bit that flips on the disk: found, and right again after a replacement.
func TestFlippedBytesAreFoundAndReplaced(t *testing.T) {
	r := newRotten(t, 6)
	for _, n := range []int{1, 4} {
		p := r.place(n)
		r.write(r.file(p), int64(p[0].Start)*extent.Unit+5000*int64(n), []byte{0xff, 1, 2})
	}
	r.expect(1, 4)
}

// A write that landed in the place of another shard's, whole and with right sums of its own.
func TestMisdirectedWriteIsFoundAndReplaced(t *testing.T) {
	r := newRotten(t, 6)
	p := r.place(3)
	r.write(r.file(p), int64(p[0].Start)*extent.Unit, r.shards[2].Data[0])
	r.expect(3)
}

// A file that is cut off: shards in front are right, those behind are suspect at once.
func TestTruncatedFileIsFoundAndReplaced(t *testing.T) {
	r := newRotten(t, 6)
	file := r.file(r.place(0))
	var behind []int
	for n := range r.shards {
		if p := r.place(n); r.file(p) == file && n > 0 {
			behind = append(behind, n)
		}
	}
	end := (int64(r.place(0)[0].Start) + int64(r.place(0)[0].Units)) * extent.Unit
	r.reopen(func(string) {
		if err := os.Truncate(file, end); err != nil {
			t.Fatal(err)
		}
	})
	if len(r.s.wrong.mu.names) != len(behind) {
		t.Errorf("%d suspects at the open, %d shards are gone", len(r.s.wrong.mu.names), len(behind))
	}
	r.expect(behind...)
}

// A file that is gone must cost its shards and not the whole store.
func TestMissingFileIsFoundAndItsShardsReplaced(t *testing.T) {
	r := newRotten(t, 6)
	file := r.file(r.place(5))
	var in []int
	for n := range r.shards {
		if r.file(r.place(n)) == file {
			in = append(in, n)
		}
	}
	r.reopen(func(string) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	})
	r.expect(in...)
}

// Two files that were mixed up, by a person or a file system: every shard is in the wrong place.
func TestSwappedFilesAreFoundAndReplaced(t *testing.T) {
	r := newRotten(t, 6)
	a, b := r.file(r.place(0)), r.file(r.place(5))
	if a == b {
		t.Fatal("all shards are in one file")
	}
	r.reopen(func(dir string) {
		for _, m := range [][2]string{{a, dir + "/x"}, {b, a}, {dir + "/x", b}} {
			if err := os.Rename(m[0], m[1]); err != nil {
				t.Fatal(err)
			}
		}
	})
	r.expect(0, 1, 2, 3, 4, 5)
}

// The room of a replaced shard must come back, once.
func TestReplacementFreesTheOldPlace(t *testing.T) {
	r := newRotten(t, 4)
	before := r.s.Stats()
	for range 20 {
		for _, p := range r.shards {
			want(t, "replace", r.s.ReplaceShard(t.Context(), p), nil)
		}
	}
	if after := r.s.Stats(); after.ShardBytes != before.ShardBytes || after.Shards != before.Shards {
		t.Errorf("%d bytes in %d shards, were %d in %d", after.ShardBytes, after.Shards, before.ShardBytes, before.Shards)
	}
	r.expect()
}
