package server

import (
	"fmt"
	"net"
	"path/filepath"
	"time"

	"ashlar.dev/blockd/hooks"
	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// Config is blockd's file.
type Config struct {
	// Name of this host: the name in its certificate.
	ID string `yaml:"id"`
	// Zone of this host, for placement; empty: all hosts without a zone share one.
	Zone string `yaml:"zone"`
	// Address of the data path (other blockds only), host:port. Peers reach it under the same address.
	Listen string `yaml:"listen"`
	// TLS on the data path: required, or off on all blockds of the cluster. Without it whoever reaches
	// the port reads and writes every disk: for measurements, or a network that nobody else is on.
	DataTLS string `yaml:"data_tls"`
	// Where disks are served to clients.
	NBD NBD `yaml:"nbd"`
	// Local chunk stores, one for each disk of this host.
	Stores []Store `yaml:"stores"`
	// API addresses of metad's members, host:port.
	Metad []string `yaml:"metad"`
	// Folder of this process's own state: its lock and the count of its starts.
	Data string `yaml:"data"`
	// Certificates; see pkg/pki.
	TLS pki.Files `yaml:"tls"`
	// Where to serve /metrics, /healthz and pprof, host:port or unix:PATH; empty: nowhere.
	DebugListen string `yaml:"debug_listen"`
	// What is logged to standard error, and how.
	Log telemetry.LogConfig `yaml:"log"`
	// Limits of memory of this process.
	Memory Memory `yaml:"memory"`
	// Bytes per second that all stores of this host together may be given by repair, so that clients are not crowded out. Default 64MiB.
	RepairRate config.ByteSize `yaml:"repair_rate"`
	// Bytes per second that repair gets of that even while clients wait longer for it. Between the two it is as fast as clients do not mind. Default 4MiB.
	RepairReserve config.ByteSize `yaml:"repair_reserve"`
	// Bytes per second that scrubs read from all stores of this host together when somebody asks for one. Default 64MiB.
	ScrubRate config.ByteSize `yaml:"scrub_rate"`
	// How often each store looks over all its shards by itself, at the pace that this needs. Default 336h: 14 days.
	ScrubEvery config.Duration `yaml:"scrub_every"`
	// Where archived snapshots are, for disks that are made of them; the same for all blockds that export disks. Without it such disks cannot be opened here.
	Archive archive.Config `yaml:"archive"`
	// Applications on this host that are frozen for a snapshot and thawed after it: name, freeze, thaw. They are run as the user of this process; whoever may order snapshots may order them, by their names.
	Hooks []hooks.Hook `yaml:"hooks"`
	// How disks are written; the defaults suit most.
	Volume VolumeLimits `yaml:"volume"`

	file string // where it was read from; empty: nowhere
}

// ReadConfig reads the file at path, which SIGHUP has read again for stores that were added.
func ReadConfig(path string) (Config, error) {
	c := Config{file: path}
	return c, config.Load(path, &c)
}

// NBD is where disks are served.
type NBD struct {
	// Path of the unix socket, mode 0600; empty: none.
	Unix string `yaml:"unix"`
	// Address for TCP, host:port; empty: none.
	TCP string `yaml:"tcp"`
	// TLS on TCP: required, optional (plain clients are let in too) or off.
	TLS string `yaml:"tls"`
}

// Store is one local chunk store.
type Store struct {
	// Folder of the store, on a disk of its own.
	Path string `yaml:"path"`
	// Bytes the store may use; 0: what the disk has.
	Size config.ByteSize `yaml:"size"`
	// Format the folder if it is empty. A store that was there and is gone must not be
	// formatted anew without somebody's will.
	Format bool `yaml:"format"`
	// For tests: every fdatasync of the store takes as much longer.
	SyncDelay config.Duration `yaml:"sync_delay"`
}

// Memory bounds what this process keeps in memory.
type Memory struct {
	// Written bytes that are not packed yet, of all disks this host owns; at the limit writers wait.
	WriteBuffer config.ByteSize `yaml:"write_buffer"`
	// Pages of the block maps of all disks.
	MapCache config.ByteSize `yaml:"map_cache"`
	// Blocks read lately.
	BlockCache config.ByteSize `yaml:"block_cache"`
	// Payload of clients' requests in flight; at the limit no further request is read.
	ClientRequests config.ByteSize `yaml:"client_requests"`
	// Payload of requests of other blockds, and of the archive, that this one carries out; at the limit no further one is read.
	PeerRequests config.ByteSize `yaml:"peer_requests"`
}

// VolumeLimits are the limits of one disk's engine.
type VolumeLimits struct {
	// A memtable with nothing new for as long is packed.
	SealIdle config.Duration `yaml:"seal_idle"`
	// A write of as many bytes goes straight into a segment; 0 takes the default of 256KiB.
	LongWrite config.ByteSize `yaml:"long_write"`
	// For tests: writing a segment behind begins as much later, so journals fill up.
	PackDelay config.Duration `yaml:"pack_delay"`
}

// EnsureDefaults fills what is not set.
func (c *Config) EnsureDefaults() {
	if c.DataTLS == "" {
		c.DataTLS = "required"
	}
	if c.NBD.TLS == "" {
		c.NBD.TLS = "required"
	}
	if c.Memory.WriteBuffer == 0 {
		c.Memory.WriteBuffer = 512 << 20
	}
	if c.Memory.MapCache == 0 {
		c.Memory.MapCache = 256 << 20
	}
	if c.Memory.BlockCache == 0 {
		c.Memory.BlockCache = 64 << 20
	}
	if c.Memory.ClientRequests == 0 {
		c.Memory.ClientRequests = 1 << 30
	}
	if c.Memory.PeerRequests == 0 {
		c.Memory.PeerRequests = 768 << 20
	}
	if c.RepairRate == 0 {
		c.RepairRate = 64 << 20
	}
	if c.RepairReserve == 0 {
		c.RepairReserve = min(4<<20, c.RepairRate)
	}
	if c.ScrubRate == 0 {
		c.ScrubRate = 64 << 20
	}
	if c.ScrubEvery == 0 {
		c.ScrubEvery = config.Duration(14 * 24 * time.Hour)
	}
	if c.Volume.SealIdle == 0 {
		c.Volume.SealIdle = config.Duration(2 * time.Minute)
	}
	if c.Volume.LongWrite == 0 {
		c.Volume.LongWrite = 256 << 10
	}
}

// writeBufferMin leaves one disk, which gets a quarter, room for two memtables.
const writeBufferMin config.ByteSize = 256 << 20

// Validate refuses what cannot work.
func (c *Config) Validate() error {
	if c.ID == "" || len(c.ID) > id.HostMax {
		return fmt.Errorf("id: want 1 to %d bytes: %w", id.HostMax, errs.ErrInvalid)
	}
	if c.Data == "" {
		return fmt.Errorf("data is missing: the folder of this process's state: %w", errs.ErrInvalid)
	}
	if len(c.Metad) == 0 {
		return fmt.Errorf("metad is missing: the API addresses of its members: %w", errs.ErrInvalid)
	}
	for _, a := range append([]string{c.Listen}, c.Metad...) {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("address %q: want host:port: %w", a, errs.ErrInvalid)
		}
	}
	if c.NBD.TCP != "" {
		if _, _, err := net.SplitHostPort(c.NBD.TCP); err != nil {
			return fmt.Errorf("nbd.tcp %q: want host:port: %w", c.NBD.TCP, errs.ErrInvalid)
		}
	}
	if err := hooks.Validate(c.Hooks); err != nil {
		return err
	}
	if c.RepairReserve > c.RepairRate {
		return fmt.Errorf("repair_reserve %s is above repair_rate %s: %w", c.RepairReserve, c.RepairRate, errs.ErrInvalid)
	}
	switch c.NBD.TLS {
	case "required", "optional", "off":
	default:
		return fmt.Errorf("nbd.tls %q: want required, optional or off: %w", c.NBD.TLS, errs.ErrInvalid)
	}
	if c.DataTLS != "required" && c.DataTLS != "off" {
		return fmt.Errorf("data_tls %q: want required or off: %w", c.DataTLS, errs.ErrInvalid)
	}
	if c.ScrubEvery < config.Duration(time.Hour) {
		return fmt.Errorf("scrub_every %s: want an hour or more: %w", c.ScrubEvery, errs.ErrInvalid)
	}
	if err := c.Memory.validate(); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for i, s := range c.Stores {
		p := filepath.Clean(s.Path)
		if s.Path == "" || seen[p] {
			return fmt.Errorf("stores[%d].path %q is missing or stands there twice: %w", i, s.Path, errs.ErrInvalid)
		}
		seen[p] = true
	}
	return nil
}

// requestsMin lets the longest request of a client through, and of each class of peers a shard.
const requestsMin config.ByteSize = 192 << 20

func (m *Memory) validate() error {
	for _, x := range []struct {
		name     string
		got, min config.ByteSize
	}{{"write_buffer", m.WriteBuffer, writeBufferMin}, {"client_requests", m.ClientRequests, buf.LenMax}, {"peer_requests", m.PeerRequests, requestsMin}} {
		if x.got < x.min {
			return fmt.Errorf("memory.%s %s: want at least %s: %w", x.name, x.got, x.min, errs.ErrInvalid)
		}
	}
	return nil
}

// frozenFolder is where this host notes what is frozen.
func (c *Config) frozenFolder() string { return filepath.Join(c.Data, "frozen") }
