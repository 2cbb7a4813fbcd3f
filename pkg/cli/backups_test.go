package cli

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/vfs"
)

// Without this a backup could not be had when the cluster is gone, or one that is damaged would be given out as whole.
func TestBackupsAreFetchedWithoutACluster(t *testing.T) {
	x := newTerminal(t)
	dir, raw := t.TempDir(), bytes.Repeat([]byte{9}, 32)
	folder, keys, out := filepath.Join(dir, "archive"), filepath.Join(dir, "key"), filepath.Join(dir, "state")
	store, err := objectstore.NewDirectory(vfs.OS, folder)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := archive.NewSecret(raw)
	if err == nil {
		err = os.WriteFile(keys, []byte(hex.EncodeToString(raw)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var files [][]byte
	put := func(of string, n int, spoil bool) string {
		file := (&cluster.Backup{Cluster: of, Taken: at, Member: "m1", State: []byte{byte(n)}}).Encode()
		object, key := archive.EncodeBackup(file, secret), archive.BackupKey(of, at.Add(time.Duration(n)*time.Hour), uint64(n))
		if spoil {
			object[40] ^= 1
		}
		if err := store.Put(t.Context(), key, object); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
		return key
	}
	first := put("c", 1, false)
	put("c", 2, false)
	put("c", 3, true)
	from := " --from file://" + folder
	if got := x.must("metad backups list" + from); !strings.Contains(got, first) || strings.Count(got, "\n") != 4 {
		t.Error(got)
	}
	holds := func(want []byte) {
		t.Helper()
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q, %v", got, err)
		}
	}
	x.must("metad backups fetch " + out + from + " --key-file " + keys)
	if holds(files[1]); !strings.Contains(x.err.String(), "taking the one before") {
		t.Errorf("the newest is damaged, and nobody says so: %s", x.err.String())
	}
	x.must("metad backups fetch " + out + from + " --key-file " + keys + " --backup " + first)
	holds(files[0])
	put("other", 1, false)
	for line, want := range map[string]int{
		from: codeUsage, from + " --key-file " + keys: codeUsage, // of which cluster?
		from + " --cluster c": codeDenied, from + " --cluster none": codeNotFound, from + " --backup metad/c/nosuch": codeNotFound,
		"": codeUsage, " --from file:///no/such/folder": codeNotFound, " --from s3://host/bucket": codeUsage,
	} {
		if code := x.run("metad backups fetch " + out + line); code != want {
			t.Errorf("%q: exit code %d, want %d: %s", line, code, want, x.err.String())
		}
	}
	holds(files[0])
	x.must("metad backups fetch " + out + from + " --cluster other --key-file " + keys)
	holds(files[3])
}

// Without this nobody would find the archive without reading files first.
func TestBackupsAreFoundByTheClustersFolder(t *testing.T) {
	p := &backupPlace{}
	for _, name := range []string{"snapshotd.yaml", "config/s1.yaml", "blockd.yaml"} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "config"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("id: x\narchive:\n  store:\n    directory: /a/b\n    bandwidth_max: 1MiB\n  key_file: /k\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := p.configured(dir); err != nil || c.Store.Directory != "/a/b" || c.KeyFile != "/k" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

// Without these a typing error would ask metad all the time, or flood a terminal with what is long over.
func TestNumbersThatMakeNoSenseAreRefused(t *testing.T) {
	x := newTerminal(t)
	for _, line := range []string{"top --once --every 0s", "top --once --every -1s", "events -n -1", "events -f -n -1"} {
		if code := x.run(line); code != codeUsage {
			t.Errorf("%s: exit code %d", line, code)
		}
	}
}
