package chunk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

// everyFile is all that is in a folder: names, sizes, times and bytes.
func everyFile(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		all[path] = fmt.Sprint(i.Size(), i.Mode(), i.ModTime().UnixNano())
		if !d.IsDir() {
			b, err := os.ReadFile(path)
			all[path] += string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// closedStore is a store with all that one can have, closed.
func closedStore(t *testing.T) *rotten {
	r := newRotten(t, 6)
	for n := range 4 {
		_, err := storetest.Next(r.s, journal, storetest.Batch(3, id.LSN(n+1), 1, 2, uint64(n)))
		want(t, "append", err, nil)
	}
	meta := journal
	meta.Kind = storeproto.Meta
	_, err := storetest.Next(r.s, meta, storetest.Batch(3, 1, 2, 0, 7))
	want(t, "append to the meta stream", err, nil)
	want(t, "save care", r.s.SaveCare(storeproto.Care{Wrong: 3}), nil)
	return r
}

// look checks the store and wants nothing changed.
func (r *rotten) look() *Report {
	r.t.Helper()
	before := everyFile(r.t, r.dir)
	rep, err := Check(r.t.Context(), r.dir, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	after := everyFile(r.t, r.dir)
	for name, was := range before {
		if after[name] != was {
			r.t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before) {
		r.t.Errorf("%d files, there were %d", len(after), len(before))
	}
	return rep
}

// check wants problems in just these parts.
func (r *rotten) check(parts ...string) *Report {
	r.t.Helper()
	rep := r.look()
	var got []string
	for _, p := range rep.Problems {
		got = append(got, p.Part)
	}
	if strings.Join(got, " ") != strings.Join(parts, " ") {
		r.t.Errorf("problems %+v, want %v", rep.Problems, parts)
	}
	return rep
}

// A check that writes, if only a lock or a table, would change what it is asked to judge.
func TestCheckFindsWhatIsWrongAndWritesNothing(t *testing.T) {
	r := closedStore(t)
	first, last := r.place(0), r.place(5)
	want(t, "close", r.s.Close(), nil)
	rep := r.check()
	if rep.Shards != 6 || rep.Volumes != 1 || rep.Streams != 2 || rep.Records < 2 || rep.Starts != 1 || rep.Care.Wrong != 3 ||
		rep.ShardBytes != 6*rottenBlocks*storeproto.BlockSize || rep.Identity.ID != r.s.ID() {
		t.Errorf("%+v", rep)
	}
	r.write(r.file(first), int64(first[0].Start)*extent.Unit+77777, []byte{1, 2, 3})
	r.check("shard")
	if err := os.Remove(r.file(last)); err != nil {
		t.Fatal(err)
	}
	if rep := r.look(); rep.ProblemsAll < 2 { // this shard, and others of the file
		t.Errorf("%+v", rep.Problems)
	}
}

// Without this an operator would be told that a store is sound whose log or index is damaged.
func TestCheckFindsDamageOfLogAndIndex(t *testing.T) {
	r := closedStore(t)
	want(t, "close", r.s.Close(), nil)
	logs, err := filepath.Glob(filepath.Join(r.dir, "log", "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatal(err)
	}
	for _, name := range logs {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := strings.Index(string(b[4096:]), "ALOG"); i >= 0 { // the first log write after the head of a file in use
			r.write(name, 4096+int64(i)+50, []byte{0xff, 0xfe})
		}
	}
	rep, err := Check(t.Context(), r.dir, nil)
	if err != nil || rep.ProblemsAll == 0 || rep.Problems[0].Part != "log" {
		t.Errorf("%+v %v", rep, err)
	}
	tables, err := filepath.Glob(filepath.Join(r.dir, "index", "MANIFEST*"))
	if err != nil || len(tables) == 0 {
		t.Fatal(err)
	}
	for _, name := range tables {
		r.write(name, 10, []byte("nothing that pebble wrote"))
	}
	if rep, err = Check(t.Context(), r.dir, nil); err != nil || rep.ProblemsAll != 1 || rep.Problems[0].Part != "index" {
		t.Errorf("%+v %v", rep, err)
	}
}

// A store that is in use changes under the reader: whatever he found would mean nothing.
func TestCheckRefusesAStoreInUse(t *testing.T) {
	r := newRotten(t, 1)
	if _, err := Check(t.Context(), r.dir, nil); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("in use: %v", err)
	}
	if _, err := Check(t.Context(), t.TempDir(), vfs.OS); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("no store: %v", err)
	}
}
