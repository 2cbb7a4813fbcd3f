package archive

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// BackupsPrefix is before the keys of all backups of metad's state.
const BackupsPrefix = "metad/"

const (
	backupMagic   = 0x42485341 // "ASHB"
	backupVersion = 1
	backupFixed   = 32
	backupTime    = "20060102T150405Z"
	backupDigits  = 20 // of an entry: any number, and in order as text

	// BackupsMax bounds the backups of one cluster in an archive; more are not looked at.
	BackupsMax = 10_000
)

// Backup is one in an archive, by its key.
type Backup struct {
	Key     string
	Cluster string
	Taken   time.Time // to the second, by the clock of who took it
	Entry   uint64    // of metad's log: the state has at least all up to this one
	Size    uint64    // of the object
}

// BackupKey is where a backup lies: metad/CLUSTER/TIME-ENTRY.
func BackupKey(clusterName string, taken time.Time, entry uint64) string {
	return fmt.Sprintf("%s%s/%s-%0*d", BackupsPrefix, clusterName, taken.UTC().Format(backupTime), backupDigits, entry)
}

// ParseBackupKey reads what BackupKey wrote; ok is false for every other key.
func ParseBackupKey(key string) (b Backup, ok bool) {
	rest, ok := strings.CutPrefix(key, BackupsPrefix)
	name, rest, ok2 := strings.Cut(rest, "/")
	at, entry, ok3 := strings.Cut(rest, "-")
	taken, err := time.Parse(backupTime, at)
	n, err2 := strconv.ParseUint(entry, 10, 64)
	if !ok || !ok2 || !ok3 || err != nil || err2 != nil || BackupKey(name, taken, n) != key {
		return Backup{}, false
	}
	return Backup{Key: key, Cluster: name, Taken: taken, Entry: n}, true
}

// ListBackups gives the backups of a cluster, or of all if it is empty, the oldest first.
func ListBackups(ctx context.Context, store objectstore.Store, clusterName string) (out []Backup, err error) {
	prefix, after := BackupsPrefix, ""
	if clusterName != "" {
		prefix += clusterName + "/"
	}
	for {
		all, err := store.List(ctx, prefix, after, 0)
		if err != nil {
			return nil, fmt.Errorf("list backups: %w", err)
		}
		for _, i := range all {
			if b, ok := ParseBackupKey(i.Key); ok && len(out) < BackupsMax {
				b.Size = uint64(i.Size)
				out = append(out, b)
			}
			after = i.Key
		}
		if len(all) < objectstore.ListMax {
			break
		}
	}
	slices.SortStableFunc(out, func(a, b Backup) int { return cmp.Or(a.Taken.Compare(b.Taken), cmp.Compare(a.Entry, b.Entry)) })
	return out, nil
}

// EncodeBackup gives the bytes of the object for a backup's file: the file itself, so that it needs no program to
// be fetched, or sealed if there is a secret.
func EncodeBackup(file []byte, s *Secret) []byte {
	if s == nil {
		return file
	}
	var salt Salt
	rand.Read(salt[:]) // never fails
	return sealBackup(file, s, salt)
}

func sealBackup(file []byte, s *Secret, salt Salt) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, backupMagic)
	b = le.AppendUint16(b, backupVersion)
	b = le.AppendUint16(b, flagSealed)
	key := s.ID()
	b = append(append(b, key[:]...), salt[:]...)
	b = s.of(salt, "backup").seal(b, file, 0, b[:backupFixed:backupFixed])
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// DecodeBackup gives the backup's file of an object, checked; place names it in errors. Those of damage are of class
// errs.ErrCorrupt; one that another key sealed, or none was given for, is errs.ErrDenied.
func DecodeBackup(place string, b []byte, s *Secret) (file []byte, is *cluster.Backup, err error) {
	le := binary.LittleEndian
	if file = b; len(b) >= 4 && le.Uint32(b) == backupMagic {
		if file, err = openBackup(place, b, s); err != nil {
			return nil, nil, err
		}
	}
	if is, err = cluster.DecodeBackup(file); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", place, err)
	}
	return file, is, nil
}

func openBackup(place string, b []byte, s *Secret) ([]byte, error) {
	bad := func(what string, want, got uint64) error {
		return &errs.Corrupt{Place: place, Offset: -1, What: what, Want: want, Got: got}
	}
	le := binary.LittleEndian
	if len(b) < backupFixed+tagSize+sha256.Size {
		return nil, bad("bytes of a backup", backupFixed+tagSize+sha256.Size, uint64(len(b)))
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return nil, bad("checksum of a backup", le.Uint64(b[len(body):]), le.Uint64(sum[:]))
	}
	if version, flags := le.Uint16(b[4:]), le.Uint16(b[6:]); version != backupVersion || flags != flagSealed {
		return nil, bad("version of a sealed backup", backupVersion, uint64(version))
	}
	if key := KeyID(b[8:16]); s == nil || key != s.ID() {
		return nil, fmt.Errorf("%s is sealed with key %s, given is %s: %w", place, key, s, errs.ErrDenied)
	}
	return s.of(Salt(b[16:32]), "backup").open(place, body[backupFixed:], 0, b[:backupFixed])
}

// ReadBackup fetches a backup and checks it; see DecodeBackup.
func ReadBackup(ctx context.Context, store objectstore.Store, key string, s *Secret) (file []byte, is *cluster.Backup, err error) {
	b, err := fetch(ctx, store, key, objectstore.ObjectMax)
	if err != nil {
		return nil, nil, fmt.Errorf("read backup: %w", err)
	}
	return DecodeBackup(key, b, s)
}
