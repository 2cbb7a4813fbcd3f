package configs

import (
	"flag"
	"path/filepath"
	"testing"
	"time"

	blockd "ashlar.dev/blockd/server"
	metad "ashlar.dev/metad/server"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/config/reference"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/pki"
	snapshotd "ashlar.dev/snapshotd/server"
)

var update = flag.Bool("update", false, "rewrite deploy/config")

const folder = "../../deploy/config"

func keys(name string) pki.Files {
	return pki.Files{CA: "/etc/ashlar/pki/ca.crt", Cert: "/etc/ashlar/pki/" + name + ".crt", Key: "/etc/ashlar/pki/" + name + ".key"}
}

func metadExample() *metad.Config {
	return &metad.Config{
		ID: "m1", Listen: "10.0.0.1:7100", RaftListen: "10.0.0.1:7101", Data: "/var/lib/ashlar/metad", TLS: keys("metad"), Bootstrap: true,
		Peers: []metad.Peer{
			{ID: "m1", API: "10.0.0.1:7100", Raft: "10.0.0.1:7101"}, {ID: "m2", API: "10.0.0.2:7100", Raft: "10.0.0.2:7101"},
			{ID: "m3", API: "10.0.0.3:7100", Raft: "10.0.0.3:7101"},
		},
		Join:        metad.Join{Listen: "10.0.0.1:7102", CA: "/etc/ashlar/ca"},
		DebugListen: "127.0.0.1:7190",
	}
}

func blockdExample() *blockd.Config {
	return &blockd.Config{
		ID: "b1", Zone: "rack1", Listen: "10.0.0.1:7200", Data: "/var/lib/ashlar/blockd", TLS: keys("blockd"),
		NBD:         blockd.NBD{Unix: "/run/ashlar/nbd.sock", TCP: "10.0.0.1:10809"},
		Stores:      []blockd.Store{{Path: "/srv/ashlar/disk1", Size: 3 * config.TiB}, {Path: "/srv/ashlar/disk2", Size: 3 * config.TiB}},
		Metad:       []string{"10.0.0.1:7100", "10.0.0.2:7100", "10.0.0.3:7100"},
		DebugListen: "127.0.0.1:7290",
	}
}

func snapshotdExample() *snapshotd.Config {
	return &snapshotd.Config{
		ID: "s1", TLS: keys("snapshotd"), Lock: snapshotd.LockConfig{For: config.Duration(30 * 24 * time.Hour)}, Metad: []string{"10.0.0.1:7100", "10.0.0.2:7100", "10.0.0.3:7100"}, DebugListen: "127.0.0.1:7390",
		Archive: archive.Config{KeyFile: "/etc/ashlar/archive.key", Store: objectstore.Config{BandwidthMax: 200 * config.MiB,
			S3: objectstore.S3Config{Endpoint: "s3.example:9000", Bucket: "ashlar", Prefix: "prod", Credentials: "/etc/ashlar/s3.credentials"}}},
	}
}

// Without this a new setting would stand in no document, or an example would not load.
func TestDocuments(t *testing.T) {
	for _, d := range []struct {
		name           string
		empty, example any
		fresh          func() any
	}{
		{"metad", &metad.Config{}, metadExample(), func() any { return &metad.Config{} }},
		{"blockd", &blockd.Config{}, blockdExample(), func() any { return &blockd.Config{} }},
		{"snapshotd", &snapshotd.Config{}, snapshotdExample(), func() any { return &snapshotd.Config{} }},
	} {
		table, err := reference.Markdown("Configuration of "+d.name, d.empty)
		if err != nil {
			t.Fatal(err)
		}
		if err := config.Prepare(d.example); err != nil {
			t.Fatalf("example of %s: %v", d.name, err)
		}
		example, err := reference.Example("Configuration of "+d.name+"; every key with its default or a likely value.\n"+
			"Made from the source (make generate). What each key means stands in "+d.name+".md too.", d.example)
		if err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{d.name + ".md": table, d.name + ".yaml": example} {
			do := reference.Check
			if *update {
				do = reference.Update
			}
			if err := do(filepath.Join(folder, file), text); err != nil {
				t.Error(err)
			}
		}
		if err := config.Load(filepath.Join(folder, d.name+".yaml"), d.fresh()); err != nil {
			t.Errorf("the example does not load: %v", err)
		}
	}
}

// Without this ashlar dev could write keys that a daemon refuses.
func TestDevConfigsLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	f, err := devcluster.Prepare(devcluster.Options{Dir: dir, Clock: clock.System, SyncDelay: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range f.Dev.Metads {
		if err := config.Load(filepath.Join(dir, "config", m.ID+".yaml"), &metad.Config{}); err != nil {
			t.Error(err)
		}
	}
	for _, b := range f.Dev.Blockds {
		if err := config.Load(filepath.Join(dir, "config", b.ID+".yaml"), &blockd.Config{}); err != nil {
			t.Error(err)
		}
	}
	if err := config.Load(filepath.Join(dir, "config", f.Dev.Snapshotd.ID+".yaml"), &snapshotd.Config{}); err != nil {
		t.Error(err)
	}
}
