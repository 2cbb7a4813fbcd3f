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

// Connect makes a client of the cluster whose folder is dir, with its operator's certificate.
func (f *File) Connect(c clock.Clock, dir string) (*client.Cluster, error) {
	o, err := f.options(c, dir)
	if err != nil {
		return nil, err
	}
	return client.NewCluster(o)
}

// ConnectMembers is Connect for who changes the metadata group.
func (f *File) ConnectMembers(c clock.Clock, dir string) (*client.Members, error) {
	o, err := f.options(c, dir)
	if err != nil {
		return nil, err
	}
	return client.NewMembers(o)
}

// Fingerprint is that of the cluster's CA.
func (f *File) Fingerprint(dir string) (pki.Fingerprint, error) {
	b, err := os.ReadFile(within(dir, f.TLS.CA))
	if err != nil {
		return pki.Fingerprint{}, fmt.Errorf("read CA certificate: %w", err)
	}
	return pki.FingerprintOf(b)
}

func (f *File) options(c clock.Clock, dir string) (client.Options, error) {
	files := pki.Files{CA: within(dir, f.TLS.CA), Cert: within(dir, f.TLS.Cert), Key: within(dir, f.TLS.Key)}
	creds, err := pki.Load(c, files)
	if err != nil {
		return client.Options{}, err
	}
	return client.Options{Addresses: f.Metad, TLS: creds.Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}}), Clock: c}, nil
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
