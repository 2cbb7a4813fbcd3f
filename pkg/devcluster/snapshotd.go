package devcluster

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// SnapshotdPlan is the one snapshotd; a folder of before there was one has none, and gets it.
type SnapshotdPlan struct {
	ID    string `yaml:"id"`
	Debug string `yaml:"debug,omitempty"`
}

// SnapshotdConfig is snapshotd's file.
type SnapshotdConfig struct {
	ID          string        `yaml:"id"`
	Metad       []string      `yaml:"metad"`
	TLS         pki.Files     `yaml:"tls"`
	Archive     ArchiveConfig `yaml:"archive"`
	Lock        LockConfig    `yaml:"lock,omitempty"`
	DebugListen string        `yaml:"debug_listen,omitempty"`
}

// LockConfig says how long what is archived is locked, and how.
type LockConfig struct {
	For  config.Duration `yaml:"for,omitempty"`
	Mode string          `yaml:"mode,omitempty"`
}

// ArchiveConfig is where an archive is.
type ArchiveConfig struct {
	Store StoreOfArchive `yaml:"store"`
}

// StoreOfArchive is a directory, or a bucket.
type StoreOfArchive struct {
	Directory string    `yaml:"directory,omitempty"`
	S3        *S3Config `yaml:"s3,omitempty"`
}

// S3Config names a bucket.
type S3Config struct {
	Endpoint    string `yaml:"endpoint"`
	Bucket      string `yaml:"bucket"`
	Prefix      string `yaml:"prefix,omitempty"`
	Credentials string `yaml:"credentials"`
	CA          string `yaml:"ca,omitempty"`
}

// ParseS3 reads https://HOST[:PORT]/BUCKET[/PREFIX]; the credentials are in a file of their own.
func ParseS3(text, credentials, ca string) (*S3Config, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") == "" {
		return nil, fmt.Errorf("S3 server: want https://HOST:PORT/BUCKET or https://HOST:PORT/BUCKET/PREFIX: %w", errs.ErrInvalid)
	}
	if credentials == "" {
		return nil, fmt.Errorf("S3 server without credentials: name a file with the lines access_key = … and secret_key = …, readable by you only: %w", errs.ErrInvalid)
	}
	bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	c := &S3Config{Endpoint: u.Host, Bucket: bucket, Prefix: prefix}
	if c.Credentials, err = filepath.Abs(credentials); err == nil && ca != "" {
		c.CA, err = filepath.Abs(ca)
	}
	return c, err
}

const snapshotdID = "s1"

// ensureSnapshotd gives a plan of before its snapshotd. It has no page of its own, for its ports are chosen.
func (p *Plan) ensureSnapshotd() {
	if p.Snapshotd == nil {
		p.Snapshotd = &SnapshotdPlan{ID: snapshotdID}
	}
}

func (l layout) archiveFolder() string { return filepath.Join(l.dir, "archive") }

func (l layout) snapshotd(p *Plan, o Options) SnapshotdConfig {
	c := SnapshotdConfig{ID: p.Snapshotd.ID, TLS: l.tls(p.Snapshotd.ID), DebugListen: p.Snapshotd.Debug, Archive: ArchiveConfig{Store: l.archiveStore(o)}, Lock: o.Lock}
	for _, m := range p.Metads {
		c.Metad = append(c.Metad, m.API)
	}
	return c
}

// archiveStore is where the archive is: in the folder, or where --s3 says.
func (l layout) archiveStore(o Options) StoreOfArchive {
	if o.S3 != nil {
		return StoreOfArchive{S3: o.S3}
	}
	return StoreOfArchive{Directory: l.archiveFolder()}
}

// hasSnapshotd tells whether there is a snapshotd to start; binaries of before there was one go without.
func hasSnapshotd(binDir string) bool {
	_, err := os.Stat(filepath.Join(binDir, "snapshotd"))
	return !errors.Is(err, os.ErrNotExist)
}
