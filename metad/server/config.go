package server

import (
	"fmt"
	"net"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// Config is metad's file.
type Config struct {
	// Name of this member: one of peers, and the name in its certificate.
	ID string `yaml:"id"`
	// Address of the API (gRPC over TLS), host:port. Peers and clients reach it at peers[].api.
	Listen string `yaml:"listen"`
	// Address of the Raft transport (TLS, members only), host:port.
	RaftListen string `yaml:"raft_listen"`
	// Folder of the Raft log and the snapshots. One member, one folder, one disk that keeps what it syncs.
	Data string `yaml:"data"`
	// Certificates; see pkg/pki.
	TLS pki.Files `yaml:"tls"`
	// The founders of the group, this member included; one that joins lists itself and whom it knows. Where members are reached later stands in the cluster's state.
	Peers []Peer `yaml:"peers"`
	// Found a new group if this member has no data and all peers answer that they have none either. False: only join one that is there.
	Bootstrap bool `yaml:"bootstrap"`
	// Certificates for hosts that join, on the member that has the CA's key.
	Join Join `yaml:"join"`
	// How long a store may be away before what it has is rebuilt on others; a reboot should take less. Default 10m.
	StoreOutAfter config.Duration `yaml:"store_out_after"`
	// Backups of the cluster's state on a schedule, by this member.
	Backup BackupSchedule `yaml:"backup"`
	// Where to serve /metrics, /healthz and pprof, host:port or unix:PATH; empty: nowhere.
	DebugListen string `yaml:"debug_listen"`
	// What is logged to standard error, and how.
	Log telemetry.LogConfig `yaml:"log"`
}

// Join is a port for hosts that have no certificate yet.
type Join struct {
	// Address where hosts that have a join token get certificates (TLS, none asked for), host:port; empty: this member signs none.
	Listen string `yaml:"listen"`
	// Folder of the CA (ca.crt, and ca.key with mode 0600); needed with listen.
	CA string `yaml:"ca"`
}

// Validate refuses half of it.
func (j *Join) Validate() error {
	if j.Listen == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(j.Listen); err != nil {
		return fmt.Errorf("listen %q: want host:port: %w", j.Listen, errs.ErrInvalid)
	}
	if j.CA == "" {
		return fmt.Errorf("ca is missing: who signs needs the CA's key: %w", errs.ErrInvalid)
	}
	return nil
}

// Peer is one member as others reach it.
type Peer struct {
	// Name of the member.
	ID string `yaml:"id"`
	// Its API address, host:port.
	API string `yaml:"api"`
	// Its Raft address, host:port.
	Raft string `yaml:"raft"`
}

// peersMax: every member writes every change, so more only cost.
const peersMax = 7

// Validate refuses what cannot work.
func (c *Config) Validate() error {
	for key, v := range map[string]string{"id": c.ID, "data": c.Data} {
		if v == "" {
			return fmt.Errorf("%s is missing: %w", key, errs.ErrInvalid)
		}
	}
	for key, v := range map[string]string{"listen": c.Listen, "raft_listen": c.RaftListen} {
		if _, _, err := net.SplitHostPort(v); err != nil {
			return fmt.Errorf("%s %q: want host:port: %w", key, v, errs.ErrInvalid)
		}
	}
	if n := len(c.Peers); n > peersMax || c.Bootstrap && n%2 == 0 {
		return fmt.Errorf("peers: want 1, 3, 5 or 7 founders, got %d (an even number survives no more than one less): %w", n, errs.ErrInvalid)
	}
	seen := make(map[string]bool)
	for _, p := range c.Peers {
		for _, v := range []string{"id " + p.ID, "api " + p.API, "raft " + p.Raft} {
			if seen[v] {
				return fmt.Errorf("peers: %s stands there twice: %w", v, errs.ErrInvalid)
			}
			seen[v] = true
		}
		if _, _, err := net.SplitHostPort(p.API); err != nil {
			return fmt.Errorf("peers: api %q of %s: want host:port: %w", p.API, p.ID, errs.ErrInvalid)
		}
		if _, _, err := net.SplitHostPort(p.Raft); err != nil {
			return fmt.Errorf("peers: raft %q of %s: want host:port: %w", p.Raft, p.ID, errs.ErrInvalid)
		}
	}
	if !seen["id "+c.ID] {
		return fmt.Errorf("peers: this member, %s, is not among them: %w", c.ID, errs.ErrInvalid)
	}
	return nil
}

func (c *Config) peers() []consensus.Peer {
	out := make([]consensus.Peer, len(c.Peers))
	for i, p := range c.Peers {
		out[i] = consensus.Peer{ID: p.ID, API: p.API, Raft: p.Raft}
	}
	return out
}
