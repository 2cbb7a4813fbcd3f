package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	blockd "ashlar.dev/blockd/server"
	metad "ashlar.dev/metad/server"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/pki"
)

const (
	clusterName = "chaos"
	operator    = "operator"
	storeSize   = 4 * config.GiB
	// Little memory and an impatient packer: much is packed in little time.
	writeBuffer = 256 * config.MiB
	sealIdle    = time.Second
)

// configure writes certificates, the daemons' configs and cluster.yaml for the command line.
func (f *Fleet) configure() error {
	for _, sub := range []string{"config", "data", "run", "log"} {
		if err := os.MkdirAll(filepath.Join(f.Dir, sub), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	if err := f.certify(); err != nil {
		return err
	}
	file := devcluster.File{Cluster: clusterName, TLS: f.tls(operator)}
	var peers []metad.Peer
	for _, n := range f.nodes {
		if n.program == "metad" {
			file.Metad = append(file.Metad, at(n.address, portAPI))
			peers = append(peers, metad.Peer{ID: n.id, API: at(n.address, portAPI), Raft: at(n.address, portRaft)})
		}
	}
	if err := config.Write(filepath.Join(f.Dir, devcluster.FileName), "", &file, 0o600); err != nil {
		return err
	}
	for _, n := range f.nodes {
		data := f.data(n.id)
		if err := os.Mkdir(data, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		var cfg any
		if n.program == "metad" {
			cfg = &metad.Config{ID: n.id, Listen: at(n.address, portAPI), RaftListen: at(n.address, portRaft), Data: data, TLS: f.tls(n.id),
				Peers: peers, Bootstrap: true, DebugListen: at(n.address, portDebug)}
		} else {
			cfg = f.blockd(n, data, file.Metad)
		}
		if err := config.Write(f.config(n.id), "", cfg, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) blockd(n *node, data string, metads []string) *blockd.Config {
	c := &blockd.Config{ID: n.id, Listen: at(n.address, portData), Metad: metads, Data: data, TLS: f.tls(n.id), DebugListen: at(n.address, portDebug),
		NBD:    blockd.NBD{Unix: f.Socket(n.id), TCP: at(n.address, portNBD), TLS: "required"},
		Memory: blockd.Memory{WriteBuffer: writeBuffer}, Volume: blockd.VolumeLimits{SealIdle: config.Duration(sealIdle)}}
	for i := range f.o.Stores {
		c.Stores = append(c.Stores, blockd.Store{Path: f.store(n.id, i), Size: storeSize, Format: true})
	}
	c.EnsureDefaults()
	c.Log.EnsureDefaults()
	return c
}

// Socket is where a blockd serves disks.
func (f *Fleet) Socket(id string) string { return filepath.Join(f.Dir, "run", id+".sock") }

func (f *Fleet) certify() error {
	ca, err := pki.NewCA(clock.System, clusterName)
	if err != nil {
		return err
	}
	dir := filepath.Join(f.Dir, "pki")
	if err := ca.Save(dir); err != nil {
		return err
	}
	wanted := []pki.Request{{Role: pki.RoleOperator, Name: operator}}
	for _, n := range f.nodes {
		wanted = append(wanted, pki.Request{Role: pki.Role(n.program), Name: n.id, Hosts: []string{n.id, n.address}})
	}
	for _, r := range wanted {
		pair, err := ca.Issue(r)
		if err != nil {
			return err
		}
		if err := pair.Save(dir, r.Name); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) tls(name string) pki.Files {
	dir := filepath.Join(f.Dir, "pki")
	return pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}
