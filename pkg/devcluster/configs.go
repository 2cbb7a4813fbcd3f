package devcluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// storeOutAfter is short: who plays with a cluster does not wait for ten minutes.
const storeOutAfter = time.Minute

// layout is where things lie in the data folder.
type layout struct{ dir string }

func (l layout) pki() string               { return filepath.Join(l.dir, "pki") }
func (l layout) config(id string) string   { return filepath.Join(l.dir, "config", id+".yaml") }
func (l layout) data(id string) string     { return filepath.Join(l.dir, "data", id) }
func (l layout) pidFile(id string) string  { return filepath.Join(l.dir, "run", id+".pid") }
func (l layout) log(id string) string      { return filepath.Join(l.dir, "log", id+".log") }
func (l layout) tls(name string) pki.Files { return tlsFiles(l.pki(), name) }

func (l layout) socket(p *Plan, id string) string { return filepath.Join(p.Sockets, id+".sock") }

func tlsFiles(dir, name string) pki.Files {
	return pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}

func (l layout) make() error {
	if err := ownFolder(l.dir); err != nil {
		return err
	}
	for _, sub := range []string{"config", "data", "run", "log"} {
		if err := os.MkdirAll(filepath.Join(l.dir, sub), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	return nil
}

// writeConfigs writes every daemon's config file, as ashlar dev decides, under what the
// overlays say.
func (l layout) writeConfigs(p *Plan, o Options) error {
	for _, m := range p.Metads {
		if err := l.writeConfig(m.ID, l.metad(p, m), o.MetadOverlay); err != nil {
			return err
		}
	}
	for _, b := range p.Blockds {
		cfg := l.blockd(p, b, o.SyncDelay)
		if hasSnapshotd(o.BinDir) { // else it is of before there were archives
			cfg.Archive = &ArchiveConfig{Store: l.archiveStore(o)}
		}
		if err := l.writeConfig(b.ID, cfg, o.BlockdOverlay); err != nil {
			return err
		}
	}
	return l.writeConfig(p.Snapshotd.ID, l.snapshotd(p, o), o.SnapshotdOverlay)
}

func (l layout) metad(p *Plan, m MetadPlan) MetadConfig {
	c := MetadConfig{ID: m.ID, Listen: m.API, RaftListen: m.Raft, Data: l.data(m.ID), TLS: l.tls(m.ID), Bootstrap: true, DebugListen: m.Debug, StoreOutAfter: config.Duration(storeOutAfter)}
	for _, x := range p.Metads {
		c.Peers = append(c.Peers, PeerConfig{ID: x.ID, API: x.API, Raft: x.Raft})
	}
	return c
}

func (l layout) blockd(p *Plan, b BlockdPlan, syncDelay config.Duration) BlockdConfig {
	c := BlockdConfig{ID: b.ID, Listen: b.Data, Data: l.data(b.ID), TLS: l.tls(b.ID), DebugListen: b.Debug,
		NBD: NBDConfig{Unix: l.socket(p, b.ID), TCP: b.NBD, TLS: "optional"}}
	for i := range b.Stores {
		c.Stores = append(c.Stores, StoreConfig{Path: filepath.Join(l.data(b.ID), fmt.Sprintf("s%d", i+1)), Size: p.StoreSize,
			Format: true, SyncDelay: syncDelay})
	}
	for _, x := range b.Added { // formatted when they were added
		c.Stores = append(c.Stores, StoreConfig{Path: x.Path, Size: x.Size, SyncDelay: syncDelay})
	}
	for _, m := range p.Metads {
		c.Metad = append(c.Metad, m.API)
	}
	return c
}

const configHead = "# Written by ashlar dev at every start; changes here are lost (see --metad-config, --blockd-config and --snapshotd-config).\n"

func (l layout) writeConfig(id string, cfg any, overlay string) error {
	if err := os.MkdirAll(l.data(id), 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if overlay == "" {
		return config.Write(l.config(id), configHead, cfg, 0o600)
	}
	merged, err := withOverlay(cfg, overlay)
	if err != nil {
		return err
	}
	return config.Write(l.config(id), configHead, merged, 0o600)
}

// withOverlay lays the file's keys over cfg's: sections merge, everything else is replaced.
func withOverlay(cfg any, path string) (map[string]any, error) {
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	base := make(map[string]any)
	if err := yaml.Unmarshal(text, &base); err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open overlay: %w", err)
	}
	defer f.Close()
	over := make(map[string]any)
	if err := yaml.NewDecoder(f).Decode(&over); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("overlay %s: %w: %w", path, errs.ErrInvalid, err)
	}
	merge(base, over)
	return base, nil
}

func merge(base, over map[string]any) {
	for key, v := range over {
		section, isSection := v.(map[string]any)
		under, wasSection := base[key].(map[string]any)
		if isSection && wasSection {
			merge(under, section)
		} else {
			base[key] = v
		}
	}
}
