package chunk

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

var update = flag.Bool("update", false, "write the golden files")

// trace notes writes and syncs, each kind of file as one lane. The index runs
// beside the log, so its place among the log's lines is not fixed; it is fixed
// against those of the extents.
type trace struct {
	mu    sync.Mutex
	lines []string
}

func (tr *trace) note(op vfs.Op) error {
	var lane string
	switch dir := filepath.Base(filepath.Dir(op.Path)); {
	case dir == "log" || dir == "extents":
		lane = dir
	case dir == "index" && op.Kind == vfs.OpSync && strings.HasSuffix(op.Path, ".log"):
		lane = "index" // Pebble's own log: the moment a change is durable
	case filepath.Base(op.Path) == "log" || filepath.Base(op.Path) == "extents":
		lane = "directory " + filepath.Base(op.Path)
	case strings.Contains(op.Path, "STORE"), filepath.Base(op.Path) == "store", op.Path == "/":
		lane = op.Path
	default:
		return nil
	}
	if op.Kind == vfs.OpRead {
		return nil
	}
	line := fmt.Sprintf("%s: %s", lane, op.Kind)
	if op.Direct && op.Kind == vfs.OpWrite {
		line += fmt.Sprintf(" %d bytes", op.Len)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.lines = append(tr.lines, line)
	return nil
}

// take gives the lines since the last, with runs of the same line counted. With
// sorted the lanes are put one after another.
func (tr *trace) take(sorted bool) string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if sorted {
		slices.SortStableFunc(tr.lines, func(a, b string) int {
			la, _, _ := strings.Cut(a, ":")
			lb, _, _ := strings.Cut(b, ":")
			return strings.Compare(lb, la)
		})
	}
	var out strings.Builder
	for i := 0; i < len(tr.lines); {
		n := i
		for n < len(tr.lines) && tr.lines[n] == tr.lines[i] {
			n++
		}
		if n-i > 1 {
			fmt.Fprintf(&out, "  %s ×%d\n", tr.lines[i], n-i)
		} else {
			fmt.Fprintf(&out, "  %s\n", tr.lines[i])
		}
		i = n
	}
	tr.lines = nil
	return out.String()
}

// Without this the order in which things become durable could change unseen, and
// with it what a power loss leaves. FORMAT.md tells the order in words.
func TestOrderOfWritesAndSyncs(t *testing.T) {
	tr := &trace{}
	fs := vfs.WithHooks(vfs.Wrap(pvfs.NewMem()), vfs.Hooks{Before: tr.note})
	var out strings.Builder
	step := func(what string, sorted bool, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		fmt.Fprintf(&out, "%s\n%s", what, tr.take(sorted))
	}
	o := testFormat(fs)
	o.LogFileBytes, o.LogFilesMax = 64<<10, 4
	_, err := Format("/store", o)
	step("format", false, err)
	s := testOpen(t, fs, "/store", clock.NewManual())
	step("open", false, nil)
	meta := storetest.Stream(3, 1, storeproto.Meta)
	_, err = storetest.Next(s, journal, storetest.Batch(3, 1, 1, 1, 0))
	step("first append to a journal (log and index at once)", true, err)
	_, err = storetest.Next(s, journal, storetest.Batch(3, 2, 1, 1, 0))
	step("append to a journal", false, err)
	_, err = storetest.Next(s, meta, storetest.Batch(3, 1, 1, 0, 0))
	step("first append to a meta stream", false, err)
	_, err = storetest.Next(s, meta, storetest.Batch(3, 2, 1, 0, 0))
	step("append to a meta stream", false, err)
	gen := id.Generation{Epoch: 3, N: 1}
	step("first put of a shard", false, storetest.Put(s, storetest.Shard(id.MakeSegment(1, 1), gen, 0, 4, 1)))
	step("put of a shard", false, storetest.Put(s, storetest.Shard(id.MakeSegment(2, 1), gen, 0, 4, 1)))
	step("put again", false, storetest.Put(s, storetest.Shard(id.MakeSegment(2, 1), gen, 0, 4, 1)))
	_, err = s.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: 3, By: storetest.HolderA})
	step("fence", false, err)
	step("delete of a shard", false, s.DeleteShards(t.Context(), storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 3,
		Segments: []storeproto.SegmentGeneration{{Segment: id.MakeSegment(1, 1), Generation: gen}}}))
	_, err = storetest.Append(s, &storeproto.Append{Stream: journal, Epoch: 3, Batch: storetest.Batch(3, 3, 1, 3, 0), Released: 2})
	step("append that releases", false, err)
	step("drop", false, s.Drop(t.Context(), storeproto.Drop{Volume: storetest.Volume, Epoch: 3}))
	step("release", false, s.Release(t.Context(), storeproto.Release{Volume: storetest.Volume, Epoch: 3, By: storetest.HolderA}))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/order.golden", out.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s", name, got)
	}
}
