package remote

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
)

// PeerConfig says which host to reach, and as whom.
type PeerConfig struct {
	Host             id.Host // the name in its certificate
	Network, Address string
	TLS              *tls.Config        // or Insecure
	LiveTLS          func() *tls.Config // instead of TLS, asked for each connection
	Insecure         bool
	Self             pki.Identity
	Timeouts         Timeouts
	Timing           rpc.Timing
	Clock            clock.Clock
	Log              *slog.Logger
	Stats            *rpc.Stats // may be nil
	Pacer            *rpc.Pacer // shared with other peers; nil makes one
	Corker           rpc.Corker // see rpc.ClientConfig
	// OnState, if set, hears of every connection made and lost. It must not block.
	OnState func(class rpc.Class, up bool)
}

// Timeouts bound the requests that carry no context. When one runs out, the request ends
// with ErrTimeout and its outcome is unknown. Zero fields get the defaults.
type Timeouts struct {
	Append  time.Duration // 10 s
	Confirm time.Duration // 2 s
	Lease   time.Duration // beyond its Wait; 2 s
	Read    time.Duration // 10 s
	Put     time.Duration // 60 s
}

// EnsureDefaults fills what is zero.
func (t *Timeouts) EnsureDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&t.Append, 10*time.Second)
	set(&t.Confirm, 2*time.Second)
	set(&t.Lease, 2*time.Second)
	set(&t.Read, 10*time.Second)
	set(&t.Put, 60*time.Second)
}

// Peer is the bundle of connections to one host and all its stores. Safe for concurrent use.
type Peer struct {
	host     id.Host
	timeouts Timeouts
	clients  [4]*rpc.Client // by class; 0 is empty
	pacer    *rpc.Pacer     // if it is the peer's own
}

// NewPeer starts to connect to a host. It does not wait for it.
func NewPeer(cfg PeerConfig) (*Peer, error) {
	if cfg.Host == "" || cfg.Clock == nil {
		return nil, fmt.Errorf("configure peer %q: host or clock is missing: %w", cfg.Host, errs.ErrInvalid)
	}
	cfg.Timeouts.EnsureDefaults()
	p := &Peer{host: cfg.Host, timeouts: cfg.Timeouts}
	if cfg.Pacer == nil {
		p.pacer = rpc.NewPacer(cfg.Clock, cfg.Timing)
		cfg.Pacer = p.pacer
	}
	for _, class := range []rpc.Class{rpc.ClassLog, rpc.ClassBulk, rpc.ClassRead} {
		rc := rpc.ClientConfig{Network: cfg.Network, Address: cfg.Address, Class: class, VersionMin: VersionMin, VersionMax: Version,
			TLS: cfg.TLS, LiveTLS: cfg.LiveTLS, Insecure: cfg.Insecure, Self: cfg.Self, Peer: string(cfg.Host), Timing: cfg.Timing,
			Clock: cfg.Clock, Log: cfg.Log, Stats: cfg.Stats, Pacer: cfg.Pacer, Corker: cfg.Corker}
		if cfg.OnState != nil {
			rc.OnState = func(up bool) { cfg.OnState(class, up) }
		}
		c, err := rpc.NewClient(rc)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("configure peer %s: %w", cfg.Host, err), p.Close())
		}
		p.clients[class] = c
	}
	return p, nil
}

// Host is the peer's name.
func (p *Peer) Host() id.Host { return p.host }

// Up tells whether all connections stand.
func (p *Peer) Up() bool {
	for _, c := range p.clients {
		if c != nil && !c.Up() {
			return false
		}
	}
	return true
}

// Down says why a connection is missing; nil when none is, or the first dials are under way.
func (p *Peer) Down() error {
	for _, c := range p.clients {
		if c != nil && c.Down() != nil {
			return c.Down()
		}
	}
	return nil
}

// Close ends all requests with ErrClosed and waits for the peer's goroutines. It may be called again.
func (p *Peer) Close() error {
	for _, c := range p.clients {
		if c != nil {
			_ = c.Close() // it has no error to tell
		}
	}
	if p.pacer != nil {
		p.pacer.Close()
	}
	return nil
}

// Store is a store of the peer, in one incarnation: requests to another one, which remembers
// nothing of this one's fences and streams, end with ErrNotFound. It is cheap and holds nothing; that the
// peer has no such store shows at the first request (ErrUnavailable).
func (p *Peer) Store(s id.Store, inc id.Incarnation) storeproto.Store {
	t := &store{peer: p, id: s, incarnation: inc}
	copy(t.ref[:], s[:])
	copy(t.ref[16:], inc[:])
	return t
}

// Cork holds requests of the I/O path to the peer back until the next Uncork, whoever calls it, so
// that they leave together. Neither method waits.
func (p *Peer) Cork() {
	p.clients[rpc.ClassLog].Cork()
	p.clients[rpc.ClassRead].Cork()
}

// Uncork sends what was held back.
func (p *Peer) Uncork() {
	p.clients[rpc.ClassLog].Uncork()
	p.clients[rpc.ClassRead].Uncork()
}

// class is what the peer is told of c: nothing if it does not know classes.
func (p *Peer) class(op uint16, c storeproto.Class) storeproto.Class {
	if c != storeproto.ClassDemand && p.client(op).Version() < versionClass {
		return storeproto.ClassDemand
	}
	return c
}

// room is what the peer is told of r: nothing if it does not know steps.
func (p *Peer) room(r storeproto.Room) storeproto.Room {
	if r != storeproto.RoomPack && p.client(opPutShard).Version() < versionRoom {
		return storeproto.RoomPack
	}
	return r
}

func (p *Peer) client(op uint16) *rpc.Client { return p.clients[classOf(op)] }
