package cluster

import (
	"encoding/binary"
	"fmt"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// Backup is metad's state at one moment, as `ashlar metad backup` writes it to a file:
// metad/FORMAT.md has the bytes. State is a snapshot that only metad understands.
type Backup struct {
	Cluster string // as its certificates have it
	Taken   time.Time
	Member  string // who gave it
	Term    uint64 // of Raft, then
	State   []byte
}

const (
	backupMagic   = "ASHMBAK\x00"
	backupVersion = 1
	// BackupBytesMax bounds a backup.
	BackupBytesMax = 1 << 30
	backupNameMax  = 128
)

// Encode gives the bytes of the file.
func (b *Backup) Encode() []byte {
	out := append(make([]byte, 0, len(b.State)+512), backupMagic...)
	out = binary.LittleEndian.AppendUint16(out, backupVersion)
	out = binary.LittleEndian.AppendUint64(out, uint64(b.Taken.UnixMilli()))
	out = binary.LittleEndian.AppendUint64(out, b.Term)
	out = codec.AppendString(codec.AppendString(out, b.Cluster), b.Member)
	out = append(binary.AppendUvarint(out, uint64(len(b.State))), b.State...)
	return binary.LittleEndian.AppendUint32(out, codec.CRC(out))
}

// DecodeBackup reads what Encode wrote; it shares its memory. An error is of class
// ErrCorrupt, or ErrInvalid for a version of a later program.
func DecodeBackup(file []byte) (*Backup, error) {
	const place = "backup of metad"
	if len(file) < len(backupMagic)+4 || string(file[:len(backupMagic)]) != backupMagic {
		return nil, &errs.Corrupt{Place: place, What: "magic", Want: uint64(len(backupMagic)), Got: uint64(len(file))}
	}
	body := file[:len(file)-4]
	if got, want := codec.CRC(body), binary.LittleEndian.Uint32(file[len(body):]); got != want {
		return nil, &errs.Corrupt{Place: place, Offset: int64(len(body)), What: "checksum", Want: uint64(want), Got: uint64(got)}
	}
	r := codec.NewReader(place, body)
	r.Bytes(len(backupMagic))
	if v := r.U16(); v != backupVersion {
		return nil, fmt.Errorf("%s: version %d is not known: %w", place, v, errs.ErrInvalid)
	}
	b := &Backup{Taken: time.UnixMilli(int64(r.U64())).UTC(), Term: r.U64(), Cluster: r.String(backupNameMax), Member: r.String(backupNameMax)}
	b.State = r.Bytes(r.Count(BackupBytesMax, 1))
	r.End()
	if r.Err() != nil {
		return nil, r.Err()
	}
	return b, nil
}
