package devcluster

import (
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/pki"
)

// The keys of the daemons' config files, as their own Configs document them, that commands
// write: ashlar dev, cluster init, host join. Everything else keeps its default.

// MetadConfig is metad's file.
type MetadConfig struct {
	ID            string          `yaml:"id"`
	Listen        string          `yaml:"listen"`
	RaftListen    string          `yaml:"raft_listen"`
	Data          string          `yaml:"data"`
	TLS           pki.Files       `yaml:"tls"`
	Peers         []PeerConfig    `yaml:"peers"`
	Bootstrap     bool            `yaml:"bootstrap"`
	Join          *JoinConfig     `yaml:"join,omitempty"`
	DebugListen   string          `yaml:"debug_listen,omitempty"`
	StoreOutAfter config.Duration `yaml:"store_out_after,omitempty"`
	Backup        *BackupConfig   `yaml:"backup,omitempty"`
}

// BackupConfig is where a metad writes backups.
type BackupConfig struct {
	Folder string `yaml:"folder"`
}

// PeerConfig is one member of metad.
type PeerConfig struct {
	ID   string `yaml:"id"`
	API  string `yaml:"api"`
	Raft string `yaml:"raft"`
}

// JoinConfig is of a metad that signs for hosts that join.
type JoinConfig struct {
	Listen string `yaml:"listen"`
	CA     string `yaml:"ca"`
}

// BlockdConfig is blockd's file.
type BlockdConfig struct {
	ID          string        `yaml:"id"`
	Zone        string        `yaml:"zone,omitempty"`
	Listen      string        `yaml:"listen"`
	NBD         NBDConfig     `yaml:"nbd"`
	Stores      []StoreConfig `yaml:"stores,omitempty"`
	Metad       []string      `yaml:"metad"`
	Data        string        `yaml:"data"`
	TLS         pki.Files     `yaml:"tls"`
	DebugListen string        `yaml:"debug_listen,omitempty"`
	// Archive is where disks that are made from one find it; nil: nowhere.
	Archive *ArchiveConfig `yaml:"archive,omitempty"`
}

// NBDConfig is where a blockd serves disks.
type NBDConfig struct {
	Unix string `yaml:"unix"`
	TCP  string `yaml:"tcp"`
	TLS  string `yaml:"tls"`
}

// StoreConfig is one local store.
type StoreConfig struct {
	Path      string          `yaml:"path"`
	Size      config.ByteSize `yaml:"size"`
	Format    bool            `yaml:"format"`
	SyncDelay config.Duration `yaml:"sync_delay,omitempty"`
}

// DaemonPlace is where the files of one daemon of ashlar dev are.
type DaemonPlace struct{ ID, Config, Log string }

// Daemons are those of the cluster of ashlar dev in a folder; none if there is no such cluster.
func Daemons(dir string) []DaemonPlace {
	f, err := LoadFile(dir)
	if err != nil || f.Dev == nil {
		return nil
	}
	l := layout{dir}
	var out []DaemonPlace
	for _, m := range f.Dev.Metads {
		out = append(out, DaemonPlace{m.ID, l.config(m.ID), l.log(m.ID)})
	}
	for _, b := range f.Dev.Blockds {
		out = append(out, DaemonPlace{b.ID, l.config(b.ID), l.log(b.ID)})
	}
	if s := f.Dev.Snapshotd; s != nil {
		out = append(out, DaemonPlace{s.ID, l.config(s.ID), l.log(s.ID)})
	}
	return out
}
