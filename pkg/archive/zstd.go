package archive

import (
	"sync"

	"github.com/klauspost/compress/zstd"

	"ashlar.dev/pkg/errs"
)

// Two encoders and one decoder for all: they work on any number of calls at once. The quick encoder finds what repeats and
// leaves the rest as it is, the other one codes that, too.
var (
	encoder      = sync.OnceValue(func() *zstd.Encoder { return newEncoder(false) })
	quickEncoder = sync.OnceValue(func() *zstd.Encoder { return newEncoder(true) })

	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(4), zstd.WithDecoderMaxMemory(manifestPlainMax))
		if err != nil {
			panic("archive: " + err.Error())
		}
		return d
	})
)

func newEncoder(quick bool) *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(encodersAtOnce), zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true), zstd.WithNoEntropyCompression(quick))
	if err != nil {
		panic("archive: " + err.Error()) // the options are constant
	}
	return e
}

// encodersAtOnce bounds the calls that compress at once; more wait for each other.
const encodersAtOnce = 8

// deflate appends plain to dst, compressed. To code what does not repeat costs ten times as much as to find what does,
// and wins nothing of what is random, encrypted or compressed already: it is done where a look at the bytes promises something.
func deflate(dst, plain []byte) []byte {
	n := len(dst)
	dst = quickEncoder().EncodeAll(plain, dst)
	if promising(dst[n:]) {
		dst = encoder().EncodeAll(plain, dst[:n])
	}
	return dst
}

// Bytes that promising looks at: runs of so many, spread evenly.
const sampleRuns, sampleRun = 16, 256

// promising tells whether some values are more frequent in b than others. It sums the squares of how often each
// was seen: for n random bytes that is n²/256 + n, give or take a few parts in a hundred; for text it is many times that.
func promising(b []byte) bool {
	if len(b) < sampleRuns*sampleRun {
		return len(b) > sampleRun
	}
	var seen [256]int
	for i := range sampleRuns {
		at := i * (len(b) - sampleRun) / (sampleRuns - 1)
		for _, x := range b[at : at+sampleRun] {
			seen[x]++
		}
	}
	const n = sampleRuns * sampleRun
	squares := 0
	for _, x := range seen {
		squares += x * x
	}
	return squares > (n*n/256+n)*5/4
}

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
