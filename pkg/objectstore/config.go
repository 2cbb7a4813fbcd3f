package objectstore

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/vfs"
)

// Config says where objects are kept: in a directory or in S3.
type Config struct {
	// Directory keeps the archive as plain files, durable one by one; best on another machine's disks.
	Directory string `yaml:"directory"`
	// S3 keeps it in a bucket.
	S3 S3Config `yaml:"s3"`
	// BandwidthMax limits what goes to and from the archive per second, "200MiB"; 0: no limit.
	BandwidthMax config.ByteSize `yaml:"bandwidth_max"`
	// Tries is how often a request is made that fails for a reason that may pass.
	Tries int `yaml:"tries"`
}

// S3Config names a bucket.
type S3Config struct {
	// Endpoint is host:port of a server that speaks S3 over TLS.
	Endpoint string `yaml:"endpoint"`
	// Bucket must be there.
	Bucket string `yaml:"bucket"`
	// Prefix is put before all keys.
	Prefix string `yaml:"prefix"`
	// Region is what requests are signed for.
	Region string `yaml:"region"`
	// Credentials is a file, readable by its owner only, with the lines "access_key = …" and "secret_key = …".
	Credentials string `yaml:"credentials"`
	// CA is a file of certificates to trust instead of the system's.
	CA string `yaml:"ca"`
	// Timeout is how long the server may take to answer.
	Timeout config.Duration `yaml:"timeout"`
	// EveryVersion has Delete take all versions of an object away, of a bucket that keeps them because it locks.
	EveryVersion bool `yaml:"-"`
}

// EnsureDefaults is part of package config.
func (c *Config) EnsureDefaults() {
	if c.Tries == 0 {
		c.Tries = 8
	}
	if c.S3.Region == "" {
		c.S3.Region = "us-east-1"
	}
	if c.S3.Timeout == 0 {
		c.S3.Timeout = config.Duration(30 * time.Second)
	}
}

// Given tells whether a place is named at all.
func (c *Config) Given() bool { return c.Directory != "" || c.S3.Endpoint != "" || c.S3.Bucket != "" }

// Validate is part of package config. No place at all is fine: there is no archive then.
func (c *Config) Validate() error {
	refuse := func(key, text string) error { return fmt.Errorf("%s: %s: %w", key, text, errs.ErrInvalid) }
	switch {
	case !c.Given():
		return nil
	case c.Directory != "" && c.S3.Endpoint != "":
		return refuse("directory", "name a directory or an S3 server, not both")
	case c.Tries < 1 || c.Tries > 100:
		return refuse("tries", "want 1 to 100")
	case c.Directory != "":
		return nil
	case c.S3.Endpoint == "" || strings.Contains(c.S3.Endpoint, "/"):
		return refuse("s3.endpoint", "want host or host:port, without a scheme: it is always TLS")
	case c.S3.Bucket == "":
		return refuse("s3.bucket", "is missing")
	case c.S3.Credentials == "":
		return refuse("s3.credentials", "name a file with the lines access_key = … and secret_key = …")
	}
	if p := strings.Trim(c.S3.Prefix, "/"); p != "" {
		return CheckKey(p)
	}
	return nil
}

// Credentials open a bucket. They are never printed.
type Credentials struct{ Access, Secret string }

// String keeps secrets out of logs.
func (Credentials) String() string { return "credentials" }

// GoString does, too.
func (Credentials) GoString() string { return "credentials" }

// secretFileMax bounds a file with a secret.
const secretFileMax = 64 << 10

// ReadSecret reads a file that nobody but its owner may read.
func ReadSecret(name string) ([]byte, error) {
	s, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read secret: %w", classOf(err))
	case s.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s may be read by others than its owner (chmod 600 it): %w", name, errs.ErrDenied)
	case s.Size() > secretFileMax || !s.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no small file: %w", name, errs.ErrInvalid)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", classOf(err))
	}
	return b, nil
}

// ReadCredentials reads access_key and secret_key, one a line, from a file that only its owner may read.
func ReadCredentials(name string) (c Credentials, err error) {
	b, err := ReadSecret(name)
	if err != nil {
		return c, fmt.Errorf("credentials: %w", err)
	}
	if c, err = parseCredentials(b); err != nil {
		return c, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func parseCredentials(b []byte) (c Credentials, err error) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		k, v, _ := strings.Cut(lines.Text(), "=")
		switch strings.TrimSpace(k) {
		case "access_key":
			c.Access = strings.TrimSpace(v)
		case "secret_key":
			c.Secret = strings.TrimSpace(v)
		}
	}
	if c.Access == "" || c.Secret == "" {
		return c, fmt.Errorf("the lines access_key = … and secret_key = … are missing: %w", errs.ErrInvalid)
	}
	return c, nil
}

// Open gives the store that cfg names, with retries and, if wanted, a limit on bandwidth. It does not connect.
func Open(cfg Config, c clock.Clock) (Store, error) {
	pace := NewPace(c, int64(cfg.BandwidthMax))
	if cfg.Directory != "" {
		d, err := NewDirectory(vfs.OS, cfg.Directory)
		if err != nil {
			return nil, err
		}
		if pace != nil {
			return paced{d, pace}, nil
		}
		return d, nil
	}
	if !cfg.Given() {
		return nil, fmt.Errorf("no archive is configured; name a directory or an S3 server under archive: %w", errs.ErrInvalid)
	}
	key, err := ReadCredentials(cfg.S3.Credentials)
	if err != nil {
		return nil, err
	}
	var ca []byte
	if cfg.S3.CA != "" {
		if ca, err = os.ReadFile(cfg.S3.CA); err != nil {
			return nil, fmt.Errorf("read CA of S3 server: %w", classOf(err))
		}
	}
	return openS3(cfg, key, ca, pace, c)
}

// openS3 gives the bucket that cfg names; ca are certificates to trust instead of the system's, if there are any.
func openS3(cfg Config, key Credentials, ca []byte, pace *Pace, c clock.Clock) (Store, error) {
	roots := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		roots.RootCAs = x509.NewCertPool()
		if !roots.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("CA of S3 server %s: there are no certificates in it: %w", cfg.S3.Endpoint, errs.ErrInvalid)
		}
	}
	s, err := NewS3(cfg.S3, key, roots, pace)
	if err != nil {
		return nil, err
	}
	return Retry(s, c, cfg.Tries), nil
}
