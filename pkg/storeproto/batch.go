package storeproto

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Limits of a batch; a store refuses what is above.
const (
	BatchRecordsMax = 4096
	BatchMetaMax    = 8 << 20
	BatchBlocksMax  = 512 // 2 MiB of payload
)

// Batch is the unit of a stream: records First…First+Count-1 of one epoch. It is
// sealed once and never changed or cut anew: a resent or copied batch is the
// same batch, so equal sums mean equal bytes.
//
// The memory of a sealed batch is shared by everyone who sends or keeps it:
// Retain before handing it on, Release when done; the last Release calls Free.
type Batch struct {
	Epoch   id.Epoch
	First   id.LSN
	Count   uint32
	Meta    []byte   // record headers, opaque to the store
	Sums    []uint32 // CRC-32C of each payload block
	Payload [][]byte // slices of whole blocks, BlockSize*len(Sums) bytes in all
	Sum     uint32   // over everything above; payload through Sums
	Free    func(*Batch)

	refs atomic.Int32
}

// Last is the batch's last LSN.
func (b *Batch) Last() id.LSN { return b.First + id.LSN(b.Count) - 1 }

// PayloadBytes is the bytes of payload.
func (b *Batch) PayloadBytes() int { return len(b.Sums) * BlockSize }

// Seal computes Sum and gives the caller the first reference.
func (b *Batch) Seal() {
	b.Sum = b.sum()
	b.refs.Store(1)
}

// Retain adds a reference.
func (b *Batch) Retain() { b.refs.Add(1) }

// Release drops a reference; the last calls Free, if set.
func (b *Batch) Release() {
	n := b.refs.Add(-1)
	if n < 0 {
		panic("storeproto: batch released too often")
	}
	if n == 0 && b.Free != nil {
		b.Free(b)
	}
}

// scratch is memory for sums: what is handed to a CRC escapes.
var scratch = sync.Pool{New: func() any { return new([256]byte) }}

func (b *Batch) sum() uint32 {
	s := scratch.Get().(*[256]byte)
	defer scratch.Put(s)
	h := s[:28]
	binary.LittleEndian.PutUint64(h[0:], uint64(b.Epoch))
	binary.LittleEndian.PutUint64(h[8:], uint64(b.First))
	binary.LittleEndian.PutUint32(h[16:], b.Count)
	binary.LittleEndian.PutUint32(h[20:], uint32(len(b.Meta)))
	binary.LittleEndian.PutUint32(h[24:], uint32(len(b.Sums)))
	crc := codec.CRCMore(codec.CRC(h), b.Meta)
	for i := 0; i < len(b.Sums); {
		n := 0
		for ; i < len(b.Sums) && n < len(s); i++ {
			binary.LittleEndian.PutUint32(s[n:], b.Sums[i])
			n += 4
		}
		crc = codec.CRCMore(crc, s[:n])
	}
	return crc
}

// Verify checks the batch against its sum and every payload block against its
// own. An error is of class errs.ErrCorrupt.
func (b *Batch) Verify(place string) error {
	if got := b.sum(); got != b.Sum {
		return &errs.Corrupt{Place: place, Offset: -1, What: "batch sum", Want: uint64(b.Sum), Got: uint64(got)}
	}
	i := 0
	for _, p := range b.Payload {
		for ; len(p) >= BlockSize && i < len(b.Sums); p = p[BlockSize:] {
			if got := codec.CRC(p[:BlockSize]); got != b.Sums[i] {
				return &errs.Corrupt{Place: place, Offset: int64(i) * BlockSize, What: "block sum", Want: uint64(b.Sums[i]), Got: uint64(got)}
			}
			i++
		}
		if len(p) != 0 {
			return &errs.Corrupt{Place: place, Offset: int64(i) * BlockSize, What: "payload beyond the sums", Want: 0, Got: uint64(len(p))}
		}
	}
	if i != len(b.Sums) {
		return &errs.Corrupt{Place: place, Offset: -1, What: "payload blocks", Want: uint64(len(b.Sums)), Got: uint64(i)}
	}
	return nil
}
