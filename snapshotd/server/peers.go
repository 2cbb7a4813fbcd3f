package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"ashlar.dev/pkg/archproto"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// peers are the blockds that are read from, one connection each.
type peers struct {
	s   *server
	mu  sync.Mutex
	all map[string]*archproto.Peer // by host and address
}

// peersMax bounds the connections that are kept.
const peersMax = 64

func (p *peers) of(host, address string) (*archproto.Peer, error) {
	if host == "" || address == "" {
		return nil, fmt.Errorf("no blockd can have the disk now: %w", errs.ErrUnavailable)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := host + " " + address
	if x := p.all[key]; x != nil {
		return x, nil
	}
	if p.all == nil {
		p.all = make(map[string]*archproto.Peer)
	}
	for old, x := range p.all {
		if len(p.all) < peersMax {
			break
		}
		delete(p.all, old)
		go func() { _ = x.Close() }() // its calls end with an error, and are made again
	}
	x, err := archproto.NewPeer(archproto.PeerConfig{Host: id.Host(host), Address: address, Insecure: p.s.cfg.DataTLS == "off", Self: p.s.creds.Self(),
		LiveTLS: p.s.dialer(host), Clock: p.s.clock, Log: p.s.log})
	if err == nil {
		p.all[key] = x
	}
	return x, err
}

func (p *peers) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for _, x := range p.all {
		err = errors.Join(err, x.Close())
	}
	p.all = nil
	return err
}

// patience is how long an upload waits for its disk's owner, who may be dead, moving or not known yet.
const (
	patience    = 3 * time.Minute
	ownerPause  = 500 * time.Millisecond
	planTimeout = 30 * time.Minute
	readTimeout = 2 * time.Minute
)

// source reads a disk wherever it is owned now.
type source struct {
	s  *server
	up *uploading
}

// again asks the disk's owner until it answers, as metad says who that is, or for too long.
func (x source) again(ctx context.Context, timeout time.Duration, f func(context.Context, *archproto.Peer) error) error {
	began := x.s.clock.Now()
	for {
		p, err := x.s.peers.of(x.up.owner())
		if err == nil {
			once, cancel := context.WithTimeout(ctx, timeout)
			err = f(once, p)
			cancel()
		}
		passes := errors.Is(err, errs.ErrUnavailable) || errors.Is(err, errs.ErrConflict) || errors.Is(err, errs.ErrStaleEpoch) || errors.Is(err, errs.ErrTimeout) || errors.Is(err, errs.ErrClosed)
		if err == nil || ctx.Err() != nil || !passes || x.s.clock.Now()-began > patience {
			return err
		}
		if e := x.s.clock.Sleep(ctx, ownerPause); e != nil {
			return err
		}
	}
}

// Plan is part of archive.Source.
func (x source) Plan(ctx context.Context, q archproto.PlanQuery) (out *archproto.Plan, err error) {
	err = x.again(ctx, planTimeout, func(ctx context.Context, p *archproto.Peer) error { out, err = p.Plan(ctx, q); return err })
	return out, err
}

// Read is part of archive.Source.
func (x source) Read(ctx context.Context, q archproto.ReadQuery, room []byte) (out *archproto.Slots, err error) {
	err = x.again(ctx, readTimeout, func(ctx context.Context, p *archproto.Peer) error { out, err = p.Read(ctx, q, room); return err })
	return out, err
}
