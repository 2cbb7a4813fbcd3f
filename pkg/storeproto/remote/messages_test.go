package remote

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
)

var update = flag.Bool("update", false, "write golden files anew")

var (
	aHolder  = id.Holder{Host: "b1", Number: 7}
	aStream  = storetest.Stream(3, 1, storeproto.Meta)
	aShard   = *storetest.Shard(id.MakeSegment(5, 2), id.Generation{Epoch: 3, N: 1}, 4, 2, 9).Head
	aLease   = storeproto.Lease{Holder: aHolder, Acked: 5, Wait: time.Second, Term: 4 * time.Second, Naming: 6, Named: []storeproto.NamedFence{{Volume: storetest.Volume, Epoch: 4}}}
	aRead    = storeproto.ReadShard{Segment: id.MakeSegment(5, 2), Generation: id.Generation{Epoch: 3, N: 1}, Index: 4, First: 16, Count: 2}
	aReadGot = storeproto.ReadShard{Got: id.Generation{Epoch: 3, N: 1}, Sums: []uint32{0x11, 0x22}}
	aFence   = storeproto.Fence{Volume: storetest.Volume, Epoch: 4, By: aHolder, Prior: []id.Host{"b2", "b3"}}
	aFenced  = storeproto.FenceReply{Store: storeID, Incarnation: id.Incarnation{8}, Lossy: true, Streams: []storeproto.StreamState{{Stream: aStream, Base: 1, Released: 2, Tail: 9, Lossy: true}}}
	aRelease = storeproto.Release{Volume: storetest.Volume, Epoch: 4, By: aHolder}
	aDrop    = storeproto.Drop{Volume: storetest.Volume, Epoch: 4, Keep: []id.Ensemble{{Epoch: 3, N: 1}}}
	aDelete  = storeproto.DeleteShards{Volume: storetest.Volume, Epoch: 4, Segments: []storeproto.SegmentGeneration{{Segment: 4097, Generation: id.Generation{Epoch: 3, N: 1}}},
		Groups: []storeproto.GroupVersion{{PG: 1, Version: 2}}}
	aList     = storeproto.ListShards{PG: 3, Version: 2, After: aName, Limit: 10, Volume: id.Volume{9}}
	aName     = storeproto.ShardName{Segment: 4099, Generation: id.Generation{Epoch: 3, N: 1}, Index: 5}
	aListing  = storeproto.ShardList{Shards: []storeproto.ShardInfo{{ShardName: aName, Volume: storetest.Volume, K: 4, M: 2, PGVersion: 1, Slots: 64, Blocks: 16}}, Next: aName, More: true}
	aFetch    = storeproto.Fetch{Stream: aStream, From: 5, BytesMax: 65536}
	aPut      = storeproto.PutShard{Head: &aShard, Epoch: 4}
	someHeads = []storeproto.ShardHead{aShard, {Volume: storetest.Volume, Entries: []uint64{}, Sums: []uint32{}}}
)

// message is one encoder with its decoder: encode(decode(b)) must be b.
type message struct {
	name   string
	golden []byte
	again  func(r *codec.Reader) []byte
}

func messages() []message {
	batch := storetest.Batch(3, 1, 1, 0, 5)
	return []message{
		{"confirm", appendConfirm(nil, storetest.Volume, 4), func(r *codec.Reader) []byte { v, e := readConfirm(r); return appendConfirm(nil, v, e) }},
		{"lease", appendLease(nil, &aLease), func(r *codec.Reader) []byte { var l storeproto.Lease; readLease(r, &l); return appendLease(nil, &l) }},
		{"lease-reply", appendLeaseReply(nil, &aLease), func(r *codec.Reader) []byte {
			var l storeproto.Lease
			readLeaseReply(r, &l)
			return appendLeaseReply(nil, &l)
		}},
		{"fence", appendFence(nil, &aFence), func(r *codec.Reader) []byte { f := readFence(r); return appendFence(nil, &f) }},
		{"fence-reply", appendFenceReply(nil, &aFenced), func(r *codec.Reader) []byte { f := readFenceReply(r); return appendFenceReply(nil, &f) }},
		{"release", appendRelease(nil, &aRelease), func(r *codec.Reader) []byte { q := readRelease(r); return appendRelease(nil, &q) }},
		{"drop", appendDrop(nil, &aDrop), func(r *codec.Reader) []byte { d := readDrop(r); return appendDrop(nil, &d) }},
		{"delete", appendDelete(nil, &aDelete), func(r *codec.Reader) []byte { d := readDelete(r); return appendDelete(nil, &d) }},
		{"put", appendPut(nil, &aPut), func(r *codec.Reader) []byte {
			e, h := readPut(r)
			return appendPut(nil, &storeproto.PutShard{Head: h, Epoch: e})
		}},
		{"shard-heads", appendShardHeads(nil, someHeads), func(r *codec.Reader) []byte { return appendShardHeads(nil, readShardHeads(r)) }},
		{"list", appendList(nil, &aList), func(r *codec.Reader) []byte { q := readList(r); return appendList(nil, &q) }},
		{"list-reply", appendListReply(nil, &aListing), func(r *codec.Reader) []byte { l := readListReply(r); return appendListReply(nil, &l) }},
		{"read", appendRead(nil, &aRead), func(r *codec.Reader) []byte {
			var q storeproto.ReadShard
			readRead(r, &q)
			return appendRead(nil, &q)
		}},
		{"read-reply", appendReadReply(nil, &aReadGot), func(r *codec.Reader) []byte {
			q := storeproto.ReadShard{Sums: make([]uint32, 2)}
			readReadReply(r, &q)
			return appendReadReply(nil, &q)
		}},
		{"fetch", appendFetch(nil, &aFetch), func(r *codec.Reader) []byte { f := readFetch(r); return appendFetch(nil, &f) }},
		{"fetch-reply", appendFetchReply(nil, aStream, []*storeproto.Batch{batch}, true), func(r *codec.Reader) []byte {
			headers, more := readFetchReply("test", r)
			var stream storeproto.Stream
			var batches []*storeproto.Batch
			for _, h := range headers {
				stream = h.Stream
				batches = append(batches, &storeproto.Batch{Epoch: h.BatchEpoch, First: h.First, Count: h.Count, Sum: h.Sum,
					Meta: make([]byte, h.MetaLen), Sums: make([]uint32, h.Blocks)})
			}
			return appendFetchReply(nil, stream, batches, more)
		}},
	}
}

// Without this the bytes on the wire could change unnoticed, and hosts of two versions misread each other.
func TestMessagesAreGolden(t *testing.T) {
	path := filepath.Join("testdata", "messages.golden")
	var b strings.Builder
	for _, m := range messages() {
		fmt.Fprintf(&b, "%s %x\n", m.name, m.golden)
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("messages differ from %s:\n%s", path, b.String())
	}
}

// Without this a field could be lost between two hosts.
func TestMessagesReadBack(t *testing.T) {
	check := func(name string, want any, f func(r *codec.Reader) any) {
		t.Helper()
		for _, m := range messages() {
			if m.name != name {
				continue
			}
			var got any
			if err := decode("test", m.golden, func(r *codec.Reader) { got = f(r) }); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
			}
			return
		}
		t.Errorf("no message %s", name)
	}
	check("lease", storeproto.Lease{Holder: aLease.Holder, Acked: aLease.Acked, Wait: aLease.Wait}, func(r *codec.Reader) any { var l storeproto.Lease; readLease(r, &l); return l })
	check("lease-reply", storeproto.Lease{Term: aLease.Term, Naming: aLease.Naming, Named: aLease.Named}, func(r *codec.Reader) any {
		var l storeproto.Lease
		readLeaseReply(r, &l)
		return l
	})
	check("fence", aFence, func(r *codec.Reader) any { return readFence(r) })
	check("fence-reply", aFenced, func(r *codec.Reader) any { return readFenceReply(r) })
	check("release", aRelease, func(r *codec.Reader) any { return readRelease(r) })
	check("drop", aDrop, func(r *codec.Reader) any { return readDrop(r) })
	check("delete", aDelete, func(r *codec.Reader) any { return readDelete(r) })
	check("put", aShard, func(r *codec.Reader) any { _, h := readPut(r); return *h })
	check("shard-heads", someHeads, func(r *codec.Reader) any { return readShardHeads(r) })
	check("read", aRead, func(r *codec.Reader) any { var q storeproto.ReadShard; readRead(r, &q); return q })
	check("read-reply", aReadGot, func(r *codec.Reader) any {
		q := storeproto.ReadShard{Sums: make([]uint32, 2)}
		readReadReply(r, &q)
		return q
	})
	check("fetch", aFetch, func(r *codec.Reader) any { return readFetch(r) })
}

// Without this a cut message could be taken for a shorter one.
func TestCutMessagesAreRefused(t *testing.T) {
	for _, m := range messages() {
		for n := range m.golden {
			if err := decode("test", m.golden[:n], func(r *codec.Reader) { m.again(r) }); !errors.Is(err, errs.ErrCorrupt) {
				t.Errorf("%s cut to %d of %d bytes: %v", m.name, n, len(m.golden), err)
			}
		}
		if err := decode("test", append(m.golden[:len(m.golden):len(m.golden)], 0), func(r *codec.Reader) { m.again(r) }); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%s with a byte more: %v", m.name, err)
		}
	}
}

// Messages come from peers: bytes of any kind must be read within limits, or be refused.
func FuzzMessages(f *testing.F) {
	all := messages()
	for i, m := range all {
		f.Add(uint8(i), m.golden)
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		m := all[int(kind)%len(all)]
		var again []byte
		err := decode("fuzz", b, func(r *codec.Reader) {
			if out := m.again(r); r.Err() == nil {
				again = out
			}
		})
		if err == nil && !equalMessage(again, b) {
			t.Errorf("%s: %x reads back as %x", m.name, b, again)
		}
	})
}

// equalMessage forgives counts that are written longer than they need be.
func equalMessage(again, b []byte) bool {
	return string(again) == string(b) || len(again) < len(b) && hasLongVarint(b)
}

func hasLongVarint(b []byte) bool {
	for i := range b {
		if v, n := binary.Uvarint(b[i:]); n > 1 && len(binary.AppendUvarint(nil, v)) < n {
			return true
		}
	}
	return false
}
