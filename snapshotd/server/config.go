// Package server wires a snapshotd: it asks metad for work, reads from blockds, writes to the
// archive, and has a page for health and metrics. What is done is in package archive.
package server

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// Config is snapshotd's file.
type Config struct {
	// Name of this host: the name in its certificate.
	ID string `yaml:"id"`
	// API addresses of metad's members, host:port.
	Metad []string `yaml:"metad"`
	// Certificates; see pkg/pki.
	TLS pki.Files `yaml:"tls"`
	// TLS on the data path of blockds: required, or off where they have it off.
	DataTLS string `yaml:"data_tls"`
	// Where the archive is, and how it is encrypted.
	Archive archive.Config `yaml:"archive"`
	// Object lock (WORM): what is archived, and backups of metad, are kept as they are, by the S3 server, whoever wants them gone.
	Lock LockConfig `yaml:"lock"`
	// Backups of metad's state in the archive.
	Backup BackupConfig `yaml:"backup"`
	// Snapshots uploaded at once. Default 1.
	Uploads int `yaml:"uploads"`
	// Objects of one snapshot that are read, compressed and uploaded at once; each takes some 40 MiB of memory. Default 4.
	ObjectsAtOnce int `yaml:"objects_at_once"`
	// Where to serve /metrics, /healthz and pprof, host:port or unix:PATH; empty: nowhere.
	DebugListen string `yaml:"debug_listen"`
	// What is logged to standard error, and how.
	Log telemetry.LogConfig `yaml:"log"`
}

// LockConfig says how long what is archived is locked. The bucket must have been made with object lock, and have no default retention.
type LockConfig struct {
	// How long nobody can delete or change an archived snapshot, or a backup of metad, after it was put there, "30d"; 0: no lock. It is as long for all that a snapshot needs.
	For config.Duration `yaml:"for"`
	// governance: whom the bucket's policy allows to can take a lock away; compliance: nobody can. Default governance.
	Mode objectstore.LockMode `yaml:"mode"`
}

// lockMax bounds locks: nobody can take back what somebody mistyped.
const lockMax = 10 * 366 * 24 * time.Hour

// EnsureDefaults is part of package config.
func (c *Config) EnsureDefaults() {
	if c.DataTLS == "" {
		c.DataTLS = "required"
	}
	if c.Uploads == 0 {
		c.Uploads = 1
	}
	if c.Lock.Mode == "" {
		c.Lock.Mode = objectstore.Governance
	}
	if c.ObjectsAtOnce == 0 {
		c.ObjectsAtOnce = 4
	}
}

// Validate is part of package config.
func (c *Config) Validate() error {
	refuse := func(key, text string) error { return fmt.Errorf("%s: %s: %w", key, text, errs.ErrInvalid) }
	switch {
	case c.ID == "" || len(c.ID) > 48:
		return refuse("id", "want 1 to 48 bytes")
	case len(c.Metad) == 0:
		return refuse("metad", "name at least one member")
	case c.DataTLS != "required" && c.DataTLS != "off":
		return refuse("data_tls", "want required or off")
	case !c.Archive.Store.Given():
		return refuse("archive.store", "name a directory or an S3 server")
	case !c.Lock.Mode.Valid():
		return refuse("lock.mode", "want governance or compliance")
	case c.Lock.For.Std() > lockMax || c.Lock.For > 0 && c.Lock.For.Std() < time.Minute:
		return refuse("lock.for", "want 0 (no lock), or a minute to ten years")
	case c.Lock.For > 0 && c.Archive.Store.Directory != "":
		return refuse("lock.for", "a directory cannot lock what is in it: name a bucket of S3 that was made with object lock, or take lock out")
	case c.Uploads < 1 || c.Uploads > 16:
		return refuse("uploads", "want 1 to 16")
	case c.ObjectsAtOnce < 1 || c.ObjectsAtOnce > 64:
		return refuse("objects_at_once", "want 1 to 64")
	}
	return nil
}
