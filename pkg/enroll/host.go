package enroll

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Host is what a machine is to be.
type Host struct {
	Dir     string // of its configs and certificates
	Name    string
	Address string // by which the others reach it: an IP address or a host name
	Roles   []pki.Role
	Zone    string

	State string // folder of its daemons' own state
	Run   string // folder of its socket
	// Stores are folders formatted as stores, or to be.
	Stores    []string
	StoreSize config.ByteSize

	// Archive is the folder that a snapshotd keeps the archive in; its file can name an S3 server instead.
	Archive string

	// Ports of metad's API; Raft's and the one for joining hosts are the next two.
	MetadPort int
	// BlockdPort is the data path's, NBDPort the NBD clients'.
	BlockdPort, NBDPort int
}

// Files in Dir.
const (
	MetadFile     = "metad.yaml"
	BlockdFile    = "blockd.yaml"
	SnapshotdFile = "snapshotd.yaml"
	caFolder      = "ca"
	pkiFolder     = "pki"
	// debugSocket lies in a daemon's own folder, which only its user can enter.
	debugSocket = "debug.sock"
)

// Has tells whether the host has a role.
func (h *Host) Has(r pki.Role) bool { return slices.Contains(h.Roles, r) }

// Validate refuses what cannot work.
func (h *Host) Validate() error {
	switch {
	case h.Dir == "" || h.State == "" || h.Run == "":
		return fmt.Errorf("a folder is not set: %w", errs.ErrInvalid)
	case h.Name == "" || h.Address == "" || len(h.Roles) == 0:
		return fmt.Errorf("name, address or roles are not set: %w", errs.ErrInvalid)
	case len(h.Stores) > 0 && !h.Has(pki.RoleBlockd):
		return fmt.Errorf("stores need role blockd: %w", errs.ErrInvalid)
	case (h.Archive != "") != h.Has(pki.RoleSnapshotd):
		return fmt.Errorf("role snapshotd and the folder of its archive (--archive) belong together: %w", errs.ErrInvalid)
	}
	if _, _, err := net.SplitHostPort(h.Address); err == nil {
		return fmt.Errorf("address %q: want a host without a port: %w", h.Address, errs.ErrInvalid)
	}
	if ip := net.ParseIP(h.Address); ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("address %q: want the one by which others reach this host: %w", h.Address, errs.ErrInvalid)
	}
	return nil
}

// fresh refuses a folder that has been used: its keys may be those of a host that lives.
func (h *Host) fresh() error {
	for _, name := range []string{MetadFile, BlockdFile, SnapshotdFile, devcluster.FileName} {
		if _, err := os.Lstat(filepath.Join(h.Dir, name)); err == nil {
			return fmt.Errorf("%s is there: this host belongs to a cluster already: %w", filepath.Join(h.Dir, name), errs.ErrExists)
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("look at folder: %w", err)
		}
	}
	return nil
}

func (h *Host) at(port int) string { return net.JoinHostPort(h.Address, strconv.Itoa(port)) }

// metadAddresses are where this host's metad is.
func (h *Host) metadAddresses() (api, raft, join string) {
	return h.at(h.MetadPort), h.at(h.MetadPort + 1), h.at(h.MetadPort + 2)
}

// reached are the names and addresses in its certificates.
func (h *Host) reached() []string {
	out := []string{h.Name}
	for _, a := range []string{h.Address, "localhost", "127.0.0.1"} {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// files are where the certificate of a role is; an NBD client's has a folder of its own and
// the names that libnbd (tls-certificates=DIR) and QEMU (tls-creds-x509,dir=DIR) look for.
func (h *Host) files(r pki.Role) pki.Files {
	in := func(name string) string { return filepath.Join(h.Dir, pkiFolder, name) }
	if r == pki.RoleNBD {
		return pki.Files{CA: in("nbd/ca-cert.pem"), Cert: in("nbd/client-cert.pem"), Key: in("nbd/client-key.pem")}
	}
	return pki.Files{CA: in(pki.CACertFile), Cert: in(string(r) + ".crt"), Key: in(string(r) + ".key")}
}

const configHead = "# Written once, when this host joined; change it as you like. Every key is explained in deploy/config.\n"

// writeConfigs comes last: a folder without them is one in which joining has not ended.
// cluster.yaml, which makes the commands work, is the last of all.
func (h *Host) writeConfigs(cluster string, others []devcluster.PeerConfig, first bool) error {
	peers := slices.Clone(others)
	if h.Has(pki.RoleMetad) {
		api, raft, join := h.metadAddresses()
		peers = append(peers, devcluster.PeerConfig{ID: h.Name, API: api, Raft: raft})
		c := devcluster.MetadConfig{ID: h.Name, Listen: api, RaftListen: raft, Data: filepath.Join(h.State, "metad"), TLS: h.files(pki.RoleMetad), Peers: peers, Bootstrap: first,
			DebugListen: "unix:" + filepath.Join(h.State, "metad", debugSocket), Backup: &devcluster.BackupConfig{Folder: filepath.Join(h.State, "backups")}}
		if first {
			c.Join = &devcluster.JoinConfig{Listen: join, CA: filepath.Join(h.Dir, caFolder)}
		}
		if err := config.Write(filepath.Join(h.Dir, MetadFile), configHead, c, 0o600); err != nil {
			return err
		}
	}
	var metads []string
	for _, p := range peers {
		metads = append(metads, p.API)
	}
	if h.Has(pki.RoleBlockd) {
		c := devcluster.BlockdConfig{ID: h.Name, Zone: h.Zone, Listen: h.at(h.BlockdPort), Metad: metads, Data: filepath.Join(h.State, "blockd"), TLS: h.files(pki.RoleBlockd),
			NBD:         devcluster.NBDConfig{Unix: filepath.Join(h.Run, "nbd.sock"), TCP: h.at(h.NBDPort), TLS: "required"},
			DebugListen: "unix:" + filepath.Join(h.State, "blockd", debugSocket)}
		for _, s := range h.Stores {
			c.Stores = append(c.Stores, devcluster.StoreConfig{Path: s, Size: h.StoreSize})
		}
		if err := config.Write(filepath.Join(h.Dir, BlockdFile), configHead, c, 0o600); err != nil {
			return err
		}
	}
	if h.Has(pki.RoleSnapshotd) {
		c := devcluster.SnapshotdConfig{ID: h.Name, Metad: metads, TLS: h.files(pki.RoleSnapshotd), Archive: devcluster.ArchiveConfig{Store: devcluster.StoreOfArchive{Directory: h.Archive}}}
		if err := config.Write(filepath.Join(h.Dir, SnapshotdFile), configHead, c, 0o600); err != nil {
			return err
		}
	}
	if !h.Has(pki.RoleOperator) {
		return nil
	}
	f := &devcluster.File{Cluster: cluster, Metad: metads, TLS: h.files(pki.RoleOperator)}
	const head = "# Where this cluster is, and who you are to it; commands read it.\n"
	return config.Write(filepath.Join(h.Dir, devcluster.FileName), head, f, 0o600)
}

// makeDir makes the folder so that only its owner gets in, or leaves one that is there as it is.
func (h *Host) makeDir() error {
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}
