package archproto

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
)

// PeerConfig says which blockd to reach, and as whom.
type PeerConfig struct {
	Host     id.Host // the name in its certificate
	Address  string
	LiveTLS  func() *tls.Config // or Insecure
	Insecure bool
	Self     pki.Identity
	Clock    clock.Clock
	Log      *slog.Logger
}

// Peer reaches the snapshots of the disks that a blockd owns, over one connection.
type Peer struct {
	client *rpc.Client
	host   id.Host
}

// NewPeer starts to connect to a host. It does not wait for it.
func NewPeer(cfg PeerConfig) (*Peer, error) {
	c, err := rpc.NewClient(rpc.ClientConfig{Network: "tcp", Address: cfg.Address, Class: rpc.ClassArchive, VersionMin: Version, VersionMax: Version,
		LiveTLS: cfg.LiveTLS, Insecure: cfg.Insecure, Self: cfg.Self, Peer: string(cfg.Host), Clock: cfg.Clock, Log: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("configure peer %s: %w", cfg.Host, err)
	}
	return &Peer{client: c, host: cfg.Host}, nil
}

// Host is the peer's name.
func (p *Peer) Host() id.Host { return p.host }

// Close ends all calls and waits for the peer's goroutines.
func (p *Peer) Close() error { return p.client.Close() }

// Plan asks for a page of a plan.
func (p *Peer) Plan(ctx context.Context, q PlanQuery) (*Plan, error) {
	out := &Plan{}
	err := p.client.Do(ctx, opPlan, q.append(nil), nil, func(_ *rpc.Call, head []byte, payload int) error {
		dec := codec.NewReader(string(p.host), head)
		if out.read(&dec, q.After); payload != 0 {
			dec.Fail("payload of a plan", 0, uint64(payload))
		}
		dec.End()
		return dec.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("ask %s what snapshot %s holds: %w", p.host, q.Snapshot, err)
	}
	return out, nil
}

// Read asks for slots. Their blocks go where room is, if that is enough, and are checked against their sums again.
func (p *Peer) Read(ctx context.Context, q ReadQuery, room []byte) (*Slots, error) {
	n := q.Slots.Count()
	if len(room) < n*block.Size {
		room = make([]byte, n*block.Size)
	}
	out := &Slots{Data: room[:n*block.Size]}
	err := p.client.Do(ctx, opRead, q.append(nil), nil, func(c *rpc.Call, head []byte, payload int) error {
		dec := codec.NewReader(string(p.host), head)
		if out.readHead(&dec, n); payload != len(out.Data) {
			dec.Fail("payload of a read", uint64(len(out.Data)), uint64(payload))
		}
		dec.End()
		c.Into = append(c.Into[:0], out.Data)
		return dec.Err()
	})
	for i := 0; err == nil && i < n; i++ {
		if got := codec.CRC(out.Data[i*block.Size:][:block.Size]); got != out.Sums[i] {
			err = &errs.Corrupt{Place: string(p.host), Offset: int64(i), What: "block of segment " + q.Segment.String(), Want: uint64(out.Sums[i]), Got: uint64(got)}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read segment %s at %s: %w", q.Segment, p.host, err)
	}
	return out, nil
}
