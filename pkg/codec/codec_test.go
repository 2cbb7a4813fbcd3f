package codec

import (
	"encoding/binary"
	"errors"
	"testing"

	"ashlar.dev/pkg/errs"
)

// Without this a hostile length could make a decoder allocate without bound or panic.
func TestReaderRefusesWhatDoesNotFit(t *testing.T) {
	for name, f := range map[string]func(r *Reader){
		"short":    func(r *Reader) { r.U64(); r.U64() },
		"count":    func(r *Reader) { r.Count(1<<40, 8) },
		"reserved": func(r *Reader) { r.Zero(4) },
		"left":     func(r *Reader) { r.U8() },
		"string":   func(r *Reader) { _ = r.String(3) },
	} {
		in := binary.AppendUvarint(nil, 1<<30)
		if err := Decode("test", in, f); !errors.Is(err, errs.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without this what is written would not be what is read.
func TestRoundTrip(t *testing.T) {
	b := AppendString([]byte{7}, "ashlar")
	b = binary.LittleEndian.AppendUint32(b, 9)
	err := Decode("test", b, func(r *Reader) {
		if r.U8() != 7 || r.String(10) != "ashlar" || r.U32() != 9 {
			t.Error("values differ")
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// All decoders stand on this reader: it must never go beyond its bytes, nor give more than there are.
func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader("fuzz", in)
		for r.Err() == nil && len(r.Rest()) > 0 {
			switch r.U8() % 6 {
			case 0:
				r.U16()
			case 1:
				r.U32()
			case 2:
				r.Uvarint()
			case 3:
				_ = r.String(100)
			case 4:
				r.Bytes(r.Count(64, 1))
			case 5:
				r.Zero(1)
			}
		}
	})
}
