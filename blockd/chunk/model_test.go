package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/vfs"
)

// model is a store as plain maps. Requests come one at a time, so every answer
// and all that is there after it is determined.
type model struct {
	fs     *vfs.Crash
	s      *Store
	fence  id.Epoch
	stream map[storeproto.Stream]*modelStream
	gone   map[storeproto.Stream]bool
	shards map[shardName]uint64
	tombs  map[id.Segment]id.Generation
}

type modelStream struct {
	base, tail, released id.LSN
	sums                 map[id.LSN]uint32
}

func (m *model) open(t *rapid.T) {
	s, err := Open("/store", Options{FS: m.fs, Clock: clock.NewManual(), Readers: 1, Putters: 1})
	if err != nil {
		t.Fatal(err)
	}
	m.s = s
}

func drawStream(t *rapid.T) storeproto.Stream {
	return storetest.Stream(id.Epoch(rapid.IntRange(2, 4).Draw(t, "epoch")), uint32(rapid.IntRange(1, 2).Draw(t, "n")), storeproto.Kind(rapid.IntRange(0, 1).Draw(t, "kind")))
}

func (m *model) append(t *rapid.T) {
	name := drawStream(t)
	st := m.stream[name]
	first := id.LSN(rapid.IntRange(1, 3).Draw(t, "first"))
	if st != nil {
		first = id.LSN(max(1, int(st.tail)+rapid.IntRange(-2, 2).Draw(t, "from tail")))
	}
	b := storetest.Batch(name.Ensemble.Epoch, first, 1, rapid.IntRange(0, 3).Draw(t, "blocks"), uint64(rapid.IntRange(0, 1).Draw(t, "seed")))
	a := &storeproto.Append{Stream: name, Epoch: name.Ensemble.Epoch, Batch: b, Base: rapid.Bool().Draw(t, "base")}
	if st != nil && rapid.Bool().Draw(t, "release") {
		a.Released = id.LSN(rapid.IntRange(0, int(st.tail)).Draw(t, "released"))
	}
	want := m.decide(a, st)
	tail, err := storetest.Append(m.s, a)
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Fatalf("append %d of %v: %v, want %v", first, name, err, want)
	}
	if err == nil && tail != m.stream[name].tail {
		t.Fatalf("append %d of %v: tail %d, want %d", first, name, tail, m.stream[name].tail)
	}
}

// decide says what the answer must be, and changes the model.
func (m *model) decide(a *storeproto.Append, st *modelStream) error {
	b := a.Batch
	switch {
	case a.Epoch < m.fence:
		return errs.ErrStaleEpoch
	case st == nil && (!a.Base || m.gone[a.Stream]):
		return errs.ErrConflict
	case st == nil:
		st = &modelStream{base: b.First, tail: b.First - 1, sums: map[id.LSN]uint32{}}
		m.stream[a.Stream] = st
	case a.Base && b.First != st.base:
		return errs.ErrConflict
	}
	switch {
	case b.First == st.tail+1:
		st.tail, st.sums[b.First] = b.First, b.Sum
		st.released = max(st.released, a.Released)
		return nil
	case b.First > st.tail:
		return errs.ErrConflict
	case b.Last() <= st.released || st.sums[b.First] == b.Sum:
		return nil
	}
	return errs.ErrConflict
}

func (m *model) raise(t *rapid.T) {
	e := id.Epoch(rapid.IntRange(1, 4).Draw(t, "epoch"))
	r, err := m.s.Fence(t.Context(), storeproto.Fence{Volume: storetest.Volume, Epoch: e, By: storetest.HolderA})
	if e < m.fence {
		if !errors.Is(err, errs.ErrStaleEpoch) {
			t.Fatalf("fence at %s below %s: %v", e, m.fence, err)
		}
		return
	}
	if err != nil || len(r.Streams) != len(m.stream) || r.Lossy {
		t.Fatalf("fence at %s: %v %+v, want %d streams", e, err, r, len(m.stream))
	}
	m.fence = e
}

func (m *model) drop(t *rapid.T) {
	d := storeproto.Drop{Volume: storetest.Volume, Epoch: id.Epoch(rapid.IntRange(1, 4).Draw(t, "epoch"))}
	err := m.s.Drop(t.Context(), d)
	if d.Epoch < m.fence {
		if !errors.Is(err, errs.ErrStaleEpoch) {
			t.Fatalf("drop at %s below %s: %v", d.Epoch, m.fence, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for name := range m.stream {
		if name.Ensemble.Epoch <= d.Epoch {
			delete(m.stream, name)
			m.gone[name] = true
		}
	}
}

func (m *model) put(t *rapid.T) {
	n := drawShard(t)
	seed := uint64(rapid.IntRange(0, 1).Draw(t, "seed"))
	err := storetest.Put(m.s, storetest.Shard(n.segment, n.generation, n.index, 3+int(seed), seed))
	have, there := m.shards[n]
	var want error
	switch {
	case n.generation.Epoch < m.fence:
		want = errs.ErrStaleEpoch
	case !m.tombs[n.segment].Less(n.generation):
		want = errs.ErrNotFound
	case there && have != seed:
		want = errs.ErrConflict
	default:
		m.shards[n] = seed
	}
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Fatalf("put %v: %v, want %v", n, err, want)
	}
}

func drawShard(t *rapid.T) shardName {
	return shardName{id.MakeSegment(id.Sequence(rapid.IntRange(1, 3).Draw(t, "segment")), 0),
		id.Generation{Epoch: id.Epoch(rapid.IntRange(2, 4).Draw(t, "epoch")), N: 1}, uint8(rapid.IntRange(0, 1).Draw(t, "index"))}
}

func (m *model) delete(t *rapid.T) {
	n := drawShard(t)
	e := id.Epoch(rapid.IntRange(2, 4).Draw(t, "by"))
	err := m.s.DeleteShards(t.Context(), storeproto.DeleteShards{Volume: storetest.Volume, Epoch: e,
		Segments: []storeproto.SegmentGeneration{{Segment: n.segment, Generation: n.generation}}})
	if e < m.fence {
		if !errors.Is(err, errs.ErrStaleEpoch) {
			t.Fatalf("delete at %s below %s: %v", e, m.fence, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if m.tombs[n.segment].Less(n.generation) {
		m.tombs[n.segment] = n.generation
	}
	for have := range m.shards {
		if have.segment == n.segment && !n.generation.Less(have.generation) {
			delete(m.shards, have)
		}
	}
}

// check compares all there is.
func (m *model) check(t *rapid.T) {
	for name, st := range m.stream {
		got, err := storetest.FetchAll(t.Context(), m.s, name, 1)
		if err != nil {
			t.Fatal(err)
		}
		next := max(st.released+1, st.base)
		for _, b := range got {
			if b.First > next || st.sums[b.First] != b.Sum {
				t.Fatalf("%v: batch %d, want from %d", name, b.First, next)
			}
			next = b.Last() + 1
		}
		if next != st.tail+1 {
			t.Fatalf("%v: ends at %d, want %d (released %d)", name, next-1, st.tail, st.released)
		}
	}
	for n, seed := range m.shards {
		p := storetest.Shard(n.segment, n.generation, n.index, 3+int(seed), seed)
		r := storetest.Read(m.s, n.segment, n.generation, n.index, 0, uint16(3+seed))
		if r.Err != nil || !bytes.Equal(r.Dst, p.Data[0]) {
			t.Fatalf("shard %v: %v", n, r.Err)
		}
	}
	if st := m.s.Stats(); st.Shards != len(m.shards) || st.ShardBytes != int64(len(m.shards))<<16 {
		t.Fatalf("%d shards in %d bytes, want %d", st.Shards, st.ShardBytes, len(m.shards))
	}
}

// Without this answers and content could differ from what the contract says in
// some order of requests, restarts and power losses that nobody thought of.
func TestStoreAgainstMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{fs: vfs.NewCrash(), stream: map[storeproto.Stream]*modelStream{}, gone: map[storeproto.Stream]bool{},
			shards: map[shardName]uint64{}, tombs: map[id.Segment]id.Generation{}}
		if _, err := Format("/store", crashFormat(m.fs)); err != nil {
			t.Fatal(err)
		}
		m.open(t)
		defer func() { m.s.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append": m.append, "append more": m.append, "fence": m.raise, "drop": m.drop, "put": m.put, "delete": m.delete,
			"restart": func(t *rapid.T) {
				if err := m.s.Close(); err != nil {
					t.Fatal(err)
				}
				m.open(t)
				m.check(t)
			},
			"power loss": func(t *rapid.T) {
				old := m.s
				m.fs = m.fs.Clone(rapid.SampledFrom([]int{0, 50}).Draw(t, "percent"), 1)
				m.open(t)
				old.Close()
				m.check(t)
			},
			"": func(t *rapid.T) {
				if rapid.IntRange(0, 7).Draw(t, "look") == 0 {
					m.check(t)
				}
			},
		})
		m.check(t)
	})
}

// The index comes from a disk: whatever its rows hold must give a value, and the same bytes again, or an error.
func FuzzDecodeValues(f *testing.F) {
	n := shardName{5, id.Generation{Epoch: 1, N: 1}, 2}
	row := shardRow{head: storeproto.ShardHead{K: 4, M: 2, Blocks: 3}}
	f.Add(append(streamKey(keyMeta, storetest.Stream(1, 2, 1)), 1, 2, 3, 4, 5, 6, 7, 8), row.encode())
	f.Add(tombstoneKey(storetest.Volume, 5), encodeEntries([]uint64{1, 2, 3, 1 << 60, 0}))
	f.Add([]byte{keyLife}, encodeCare(storeproto.Care{BeganMS: 1, Shards: 2, Wrong: 3, Flagged: true}))
	f.Add([]byte{keyLife}, encodeSums([]uint32{1, 2, 3}))
	f.Fuzz(func(t *testing.T, key, v []byte) {
		s, _ := decodeStreamKey(key)
		if got, err := decodeRow(s, v); err == nil && !bytes.Equal(encodeRow(got), v) {
			t.Error("row")
		}
		if got, err := decodeFence(id.Volume{}, v); err == nil && !bytes.Equal(encodeFence(got), v) && len(got.By.Host) < 128 {
			t.Error("fence")
		}
		if got, err := decodeTombstone(key, v); err == nil && !bytes.Equal(encodeTombstone(got), v) {
			t.Error("tombstone")
		}
		if got, err := decodeEntries(v); err == nil {
			again, err := decodeEntries(encodeEntries(got))
			if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
				t.Error("entries")
			}
		}
		if got, err := decodeShardRow(n, v); err == nil {
			again, err := decodeShardRow(n, got.encode())
			if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
				t.Error("shard row")
			}
		}
		if got, err := decodeCare(v); err == nil {
			again, err := decodeCare(encodeCare(got))
			if err != nil || again != got {
				t.Errorf("care: %+v, then %+v: %v", got, again, err)
			}
		}
		_, _ = decodeEpoch(v)
		_, _ = decodeNumber(v)
		_, _ = decodeSums(uint16(len(v)/4), v)
		_, _ = decodeMetaBatch(s, v)
		_, _ = decodeShardName(key)
		var l loaded
		l.dropped, l.metas = map[storeproto.Stream]id.Epoch{}, nil
		_ = l.takeDropped(key, v)
		_ = l.takeFence(key, v)
		_ = l.takePG(key, v)
	})
}

// A store is told from another by this file: bytes of any kind must give one identity, or an error.
func FuzzDecodeIdentity(f *testing.F) {
	s := Identity{ID: id.Store{1}, Incarnation: id.Incarnation{2}, LogFileBytes: 1 << 20, LogFilesMax: 8, ExtentBytes: 4 << 20}
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == storeFileBytes { // mended, so that what is behind the sum is reached
			binary.LittleEndian.PutUint32(b[storeFileBytes-4:], codec.CRC(b[:storeFileBytes-4]))
		}
		if got, err := decodeIdentity("fuzz", b); err == nil && !bytes.Equal(got.encode(), b) {
			t.Error("another encoding of the same identity")
		}
	})
}
