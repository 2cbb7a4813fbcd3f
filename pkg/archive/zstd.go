package archive

import (
	"sync"

	"github.com/klauspost/compress/zstd"

	"ashlar.dev/pkg/errs"
)

// One encoder and one decoder for all: both work on any number of calls at once.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(4), zstd.WithEncoderCRC(false),
			zstd.WithSingleSegment(true))
		if err != nil {
			panic("archive: " + err.Error()) // the options are constant
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(4), zstd.WithDecoderMaxMemory(manifestPlainMax))
		if err != nil {
			panic("archive: " + err.Error())
		}
		return d
	})
)

// inflate gives the want bytes that b was made of.
func inflate(place string, b []byte, want int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil || !h.HasFCS || h.FrameContentSize != uint64(want) {
		return nil, &errs.Corrupt{Place: place, Offset: -1, What: "bytes before compression", Want: uint64(want), Got: h.FrameContentSize}
	}
	out, err := decoder().DecodeAll(b, make([]byte, 0, want))
	if err != nil || len(out) != want {
		return nil, &errs.Corrupt{Place: place, Offset: -1, What: "bytes after decompression", Want: uint64(want), Got: uint64(len(out))}
	}
	return out, nil
}
