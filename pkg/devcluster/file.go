package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// FileName is the file in a data folder that tells commands where its cluster is.
const FileName = "cluster.yaml"

// File is cluster.yaml. Commands need the first three keys, and an operator of a cluster
// that ashlar dev did not make writes just those; the rest is what dev chose once and keeps.
type File struct {
	// Name of the cluster, as its certificates have it.
	Cluster string `yaml:"cluster"`
	// API addresses (host:port) of metad; one that lives is enough.
	Metad []string `yaml:"metad"`
	// Certificates to speak to it with; paths are from the folder of this file.
	TLS pki.Files `yaml:"tls"`
	// Kept by ashlar dev.
	Dev *Plan `yaml:"dev,omitempty"`
}

// Validate refuses a file that leads nowhere.
func (f *File) Validate() error {
	if f.Cluster == "" || len(f.Metad) == 0 {
		return fmt.Errorf("cluster or metad is missing: %w", errs.ErrInvalid)
	}
	return nil
}

// LoadFile reads dir/cluster.yaml. Without one the error is ErrNotFound.
func LoadFile(dir string) (*File, error) {
	var f File
	err := config.Load(filepath.Join(dir, FileName), &f)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no cluster in %s: %w", dir, errs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return &f, nil
}

// save writes the file of ashlar dev.
func (f *File) save(dir string) error {
	const head = "# Where this cluster is. Written by ashlar dev on this folder, and by ashlar store add; commands read it.\n"
	return config.Write(filepath.Join(dir, FileName), head, f, 0o600)
}

// Connect makes a client of the cluster whose folder is dir, with its operator's certificate.
func (f *File) Connect(c clock.Clock, dir string) (*client.Cluster, error) {
	o, err := f.options(c, dir)
	if err != nil {
		return nil, err
	}
	return client.NewCluster(o)
}

// ConnectMembers is Connect for who changes the metadata group, and perhaps these
// credentials while it does.
func (f *File) ConnectMembers(c clock.Clock, creds *pki.Credentials) (*client.Members, error) {
	return client.NewMembers(f.with(c, creds))
}

// Credentials are those of the file's certificates, and where these lie.
func (f *File) Credentials(c clock.Clock, dir string) (*pki.Credentials, pki.Files, error) {
	files := pki.Files{CA: within(dir, f.TLS.CA), Cert: within(dir, f.TLS.Cert), Key: within(dir, f.TLS.Key)}
	creds, err := pki.Load(c, files)
	return creds, files, err
}

func (f *File) options(c clock.Clock, dir string) (client.Options, error) {
	creds, _, err := f.Credentials(c, dir)
	if err != nil {
		return client.Options{}, err
	}
	return f.with(c, creds), nil
}

func (f *File) with(c clock.Clock, creds *pki.Credentials) client.Options {
	return client.Options{Addresses: f.Metad, LiveTLS: creds.Dialer(pki.Expect{Roles: []pki.Role{pki.RoleMetad}}), Clock: c}
}

func within(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// healthOf asks once, within a second or two.
func healthOf(ctx context.Context, c *client.Cluster) (*api.StatusReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return c.Status(ctx, false)
}
