package storeproto

import (
	"bytes"
	"encoding/binary"
	"testing"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
)

// The header stands on the wire, in the log and in the index: what decodes has one form, whatever bytes come.
func FuzzDecodeHeader(f *testing.F) {
	a := Append{Stream: Stream{Volume: id.Volume{1}, Ensemble: id.Ensemble{Epoch: 3, N: 2}}, Epoch: 4, Base: true, Released: 7,
		Batch: &Batch{Epoch: 3, First: 9, Count: 2, Meta: make([]byte, 40), Sums: make([]uint32, 2), Sum: 5}}
	b := make([]byte, HeaderSize)
	a.EncodeHeader(b)
	f.Add(b)
	a.Base, a.Copy, a.Stream.Kind = false, true, Meta
	b = bytes.Clone(b)
	a.EncodeHeader(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= HeaderSize { // mended, so that what is behind the sum is reached
			binary.LittleEndian.PutUint32(b[92:], codec.CRC(b[:92]))
		}
		if sums := DecodeSums(nil, b); !bytes.Equal(AppendSums(nil, sums), b[:len(b)/4*4]) {
			t.Fatal("other sums than were there")
		}
		h, err := DecodeHeader("fuzz", b)
		if err != nil {
			return
		}
		if h.MetaLen > BatchMetaMax || h.Blocks > BatchBlocksMax || h.Count == 0 || h.First == 0 {
			t.Fatalf("%+v", h)
		}
		again := Append{Stream: h.Stream, Base: h.Base, Copy: h.Copy, Epoch: h.Epoch, Released: h.Released,
			Batch: &Batch{Epoch: h.BatchEpoch, First: h.First, Count: h.Count, Meta: make([]byte, h.MetaLen), Sums: make([]uint32, h.Blocks), Sum: h.Sum}}
		c := make([]byte, HeaderSize)
		if again.EncodeHeader(c); !bytes.Equal(c, b[:HeaderSize]) {
			t.Fatal("another encoding of the same header")
		}
	})
}
