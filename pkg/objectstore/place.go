package objectstore

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/vfs"
)

// Place names a store that no file of settings does: another one, that something is copied to. It
// has secrets, and is never printed.
type Place struct {
	// URL is file:///FOLDER, or s3://HOST[:PORT]/BUCKET[/PREFIX], of a server that speaks S3 over TLS.
	URL string
	// Credentials open the bucket.
	Credentials Credentials
	// CA are certificates (PEM) to trust instead of the system's; may be empty.
	CA []byte
	// Region is what requests are signed for; empty: the default.
	Region string
	// BandwidthMax limits the bytes per second; 0: no limit.
	BandwidthMax config.ByteSize
}

// String keeps secrets out of logs.
func (p Place) String() string { return p.URL }

// GoString does, too.
func (p Place) GoString() string { return p.URL }

// ParsePlace reads a URL, as of a Place, which https:// may begin, too. An error is of class ErrInvalid.
func ParsePlace(text string) (Config, error) {
	bad := func() (Config, error) {
		return Config{}, fmt.Errorf("place %.200q: want file:///FOLDER or s3://HOST:PORT/BUCKET[/PREFIX]: %w", text, errs.ErrInvalid)
	}
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Config{}, fmt.Errorf("the place is no URL, or has more than a host and a path in it: want file:///FOLDER or s3://HOST:PORT/BUCKET[/PREFIX]: %w", errs.ErrInvalid)
	}
	var c Config
	switch u.Scheme {
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) == "/" {
			return bad()
		}
		c.Directory = filepath.Clean(u.Path)
	case "s3", "https":
		bucket, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
		if u.Host == "" || bucket == "" {
			return bad()
		}
		c.S3 = S3Config{Endpoint: u.Host, Bucket: bucket, Prefix: prefix}
		if prefix != "" {
			err = CheckKey(prefix)
		}
	default:
		return bad()
	}
	c.EnsureDefaults()
	return c, err
}

// OpenPlace gives the store that p names, as Open does. A folder must be an archive's, empty or not there yet: a wrong name
// does not strew objects over somebody's files.
func OpenPlace(p Place, c clock.Clock) (Store, error) {
	cfg, err := ParsePlace(p.URL)
	if err != nil {
		return nil, err
	}
	if cfg.BandwidthMax = p.BandwidthMax; cfg.Directory != "" {
		if err := looksLikeArchive(cfg.Directory); err != nil {
			return nil, err
		}
		return Open(cfg, c)
	}
	if p.Credentials.Access == "" || p.Credentials.Secret == "" {
		return nil, fmt.Errorf("%s needs credentials: %w", p.URL, errs.ErrInvalid)
	}
	if p.Region != "" {
		cfg.S3.Region = p.Region
	}
	return openS3(cfg, p.Credentials, p.CA, NewPace(c, int64(cfg.BandwidthMax)), c)
}

func looksLikeArchive(folder string) error {
	names, err := vfs.OS.List(folder)
	if err != nil || len(names) == 0 { // not there yet, or what is wrong with it shows when it is made
		return nil
	}
	for _, n := range names {
		if n == tempDir {
			return nil
		}
	}
	return fmt.Errorf("folder %s has files in it and is no archive: name another one, or an empty one: %w", folder, errs.ErrConflict)
}
