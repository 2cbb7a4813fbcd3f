package record

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// Without this an engine that was put back to an earlier version would read a later one's
// checkpoint or records as something else, or as damage that nobody can explain.
func TestLaterVersionsAreRefused(t *testing.T) {
	b := EncodeCheckpoint(&Checkpoint{Epoch: 1})
	binary.LittleEndian.PutUint16(b[4:], checkpointArchive+1)
	binary.LittleEndian.PutUint32(b[len(b)-4:], codec.CRC(b[:len(b)-4]))
	_, checkpoint := DecodeCheckpoint("checkpoint", b)
	r := ReadJournal("journal", []byte{journalVersion + 1, 0, 0, 0}, 1, 1, 0)
	for r.Next(new(Journal)) {
		t.Error("a journal record of a later version was read")
	}
	_, meta := ReadMeta("meta", []byte{1, metaVersion + 1, 0, 0, 0, 0}, 1, 1)
	for what, err := range map[string]error{"checkpoint": checkpoint, "journal": r.Err(), "meta": meta} {
		if !errors.Is(err, errs.ErrCorrupt) || !strings.Contains(err.Error(), "later version") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
