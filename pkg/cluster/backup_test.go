package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

func testBackup() *Backup {
	return &Backup{Cluster: "lab-1", Taken: time.UnixMilli(1700000000000).UTC(), Member: "m1", Term: 7, State: []byte("the state")}
}

// Without this a torn or flipped backup would be restored as the truth.
func TestBackupIsWholeOrRefused(t *testing.T) {
	file := testBackup().Encode()
	b, err := DecodeBackup(file)
	if err != nil || b.Cluster != "lab-1" || b.Member != "m1" || b.Term != 7 || string(b.State) != "the state" || !b.Taken.Equal(testBackup().Taken) {
		t.Fatalf("%+v, %v", b, err)
	}
	for n := range file {
		if _, err := DecodeBackup(file[:n]); !errors.Is(err, errs.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		flipped := bytes.Clone(file)
		flipped[n] ^= 0x10
		if _, err := DecodeBackup(flipped); !errors.Is(err, errs.ErrCorrupt) {
			t.Fatalf("flipped at %d: %v", n, err)
		}
	}
}

// FuzzDecodeBackup: a file may be anything.
func FuzzDecodeBackup(f *testing.F) {
	f.Add(testBackup().Encode())
	f.Fuzz(func(t *testing.T, file []byte) {
		if n := len(file) - 4; n > 0 { // mended, so that what is behind the sum is reached
			binary.LittleEndian.PutUint32(file[n:], codec.CRC(file[:n]))
		}
		b, err := DecodeBackup(file)
		if err == nil && !bytes.Equal(b.Encode(), file) {
			t.Error("a backup has two forms")
		}
	})
}

// A backup of a later version may mean other things by the same bytes.
func TestBackupOfALaterVersionIsRefused(t *testing.T) {
	file := testBackup().Encode()
	file[len(backupMagic)] = backupVersion + 1
	binary.LittleEndian.PutUint32(file[len(file)-4:], codec.CRC(file[:len(file)-4]))
	if _, err := DecodeBackup(file); !errors.Is(err, errs.ErrInvalid) || !strings.Contains(err.Error(), "version 2") {
		t.Fatalf("decoded: %v", err)
	}
}
