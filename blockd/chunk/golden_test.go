package chunk

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/storeproto/storetest"
)

// Without this the bytes of a store could change and old stores be misread.
// FORMAT.md has the tables.
func TestGoldenBytes(t *testing.T) {
	var out strings.Builder
	line := func(what string, b []byte) {
		fmt.Fprintf(&out, "%s %d\n  %s\n", what, len(b), hex.EncodeToString(b))
	}
	ident := Identity{ID: id.Store{1, 2}, Incarnation: id.Incarnation{3, 4}, LogFileBytes: 64 << 20, LogFilesMax: 16, ExtentBytes: 256 << 20}
	b := ident.encode()
	line("STORE, first bytes", b[:80])
	line("STORE, sum", b[4092:])
	stream := storeproto.Stream{Volume: id.Volume{5}, Ensemble: id.Ensemble{Epoch: 6, N: 7}, Kind: storeproto.Meta}
	name := shardName{id.MakeSegment(8, 9), id.Generation{Epoch: 10, N: 11}, 3}
	line("key of a row", streamKey(keyStream, stream))
	line("key of a meta batch", metaKey(stream, 12))
	line("key of a shard", name.key(keyShard))
	line("key of an owner", ownerKey(stream.Volume, name))
	line("key of a tombstone", tombstoneKey(stream.Volume, name.segment))
	line("key of a group", pgKey(513))
	line("fence", encodeFence(core.FenceRow{Epoch: 6, Naming: 1<<32 + 5, By: id.Holder{Host: "host-a", Number: 14}}))
	line("row", encodeRow(core.Row{Base: 1, Released: 2, LossyTo: 3, Mark: 4}))
	line("epoch", encodeEpoch(15))
	line("number", encodeNumber(16))
	line("tombstone", encodeTombstone(core.Tombstone{Generation: name.generation, Epoch: 17}))
	row := shardRow{place: extent.Place{{File: 1, Start: 200, Units: 64}, {File: 2, Start: 0, Units: 1}},
		head: storeproto.ShardHead{Volume: stream.Volume, K: 4, M: 2, PGVersion: 18, Slots: 4096, Blocks: 1024}}
	line("shard row", row.encode())
	line("entries", encodeEntries([]uint64{100, 101, 105, 90, 1 << 62}))
	line("care", encodeCare(storeproto.Care{BeganMS: 1, After: storeproto.ShardName{Segment: name.segment, Generation: name.generation, Index: 3},
		Shards: 2, Bytes: 3, EndedMS: 4, Wrong: 5, Missing: 6, Mended: 7, Score: 8, ScoreMS: 9, Flagged: true}))
	line("sums", encodeSums([]uint32{1, 0xffffffff}))
	a := storeproto.Append{Stream: stream, Epoch: 6, Batch: storetest.Batch(6, 12, 2, 0, 19), Released: 3}
	h := make([]byte, storeproto.HeaderSize)
	a.EncodeHeader(h)
	line("append header", h)
	golden(t, "testdata/bytes.golden", out.String())
}
