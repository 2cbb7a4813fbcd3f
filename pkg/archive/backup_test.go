package archive

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/objectstore/objectstoretest"
)

func goldenBackup() []byte {
	return (&cluster.Backup{Cluster: "golden", Taken: time.Unix(1_800_000_000, 0), Member: "m1", Term: 3, State: []byte("state")}).Encode()
}

// Without this a format could change unseen, and backups that lie in archives could not be read.
func TestBackupsStayReadable(t *testing.T) {
	file := goldenBackup()
	golden(t, "backup-sealed.golden", sealBackup(file, goldenSecret(), Salt{1, 2, 3}))
	for name, b := range map[string][]byte{"sealed": readGolden(t, "backup-sealed.golden"), "as it is": file} {
		if got, is, err := DecodeBackup(name, b, goldenSecret()); err != nil || !bytes.Equal(got, file) || is.Cluster != "golden" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Without this a damaged, cut or foreign backup would be restored.
func TestBackupIsWholeOrRefused(t *testing.T) {
	file, s := goldenBackup(), goldenSecret()
	for _, b := range [][]byte{file, EncodeBackup(file, s)} {
		for i := range b {
			spoilt := bytes.Clone(b)
			spoilt[i] ^= 1
			if got, _, err := DecodeBackup("x", spoilt, s); err == nil {
				t.Fatalf("byte %d was changed, and %d bytes are taken for a backup", i, len(got))
			}
			if _, _, err := DecodeBackup("x", b[:i], s); err == nil {
				t.Fatalf("cut at %d it is taken for a backup", i)
			}
		}
	}
	other, err := NewSecret(bytes.Repeat([]byte{6}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []*Secret{nil, other} {
		if _, _, err := DecodeBackup("x", EncodeBackup(file, s), wrong); !errors.Is(err, errs.ErrDenied) {
			t.Errorf("with %s: %v", wrong, err)
		}
	}
	if bytes.Contains(EncodeBackup(file, s), []byte("golden")) {
		t.Error("a sealed backup shows names")
	}
}

// Without this the newest backup would not be the one that is found, or foreign objects would be taken for backups.
func TestBackupsAreListedInOrder(t *testing.T) {
	store := objectstoretest.NewMemory()
	at := time.Date(2026, 11, 22, 21, 0, 0, 0, time.UTC)
	keys := []string{BackupKey("a", at, 9), BackupKey("a", at, 10), BackupKey("a", at.Add(time.Hour), 2)}
	for _, key := range append([]string{BackupKey("ab", at, 5), "metad/a/notes", "metad/a/20261122T210000Z-7", "metad/a/b/c"}, keys[2], keys[0], keys[1]) {
		if err := store.Put(t.Context(), key, []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := objectstore.CheckKey(key); err != nil {
			t.Error(err)
		}
	}
	got, err := ListBackups(t.Context(), store, "a")
	if err != nil || len(got) != len(keys) {
		t.Fatal(got, err)
	}
	for i, b := range got {
		if b.Key != keys[i] || b.Size != 1 || b.Cluster != "a" {
			t.Errorf("%d: %+v", i, b)
		}
	}
	if all, err := ListBackups(t.Context(), store, ""); err != nil || len(all) != 4 {
		t.Error(all, err)
	}
}
