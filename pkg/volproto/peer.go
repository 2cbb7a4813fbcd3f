package volproto

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
)

// PeerConfig says which blockd to reach, and as whom.
type PeerConfig struct {
	Host             id.Host // the name in its certificate
	Network, Address string
	TLS              *tls.Config        // or Insecure
	LiveTLS          func() *tls.Config // instead of TLS, asked for each connection
	Insecure         bool
	Self             pki.Identity
	// IO is how long one request may take; 5 min if zero. A dead owner is noticed long before.
	IO     time.Duration
	Timing rpc.Timing
	Clock  clock.Clock
	Log    *slog.Logger
	Stats  *rpc.Stats // may be nil
	Pacer  *rpc.Pacer // shared with other peers; nil makes one
	Corker rpc.Corker // see rpc.ClientConfig
}

// Peer reaches the volumes that another blockd owns, over one connection. Safe for concurrent use.
type Peer struct {
	cfg    PeerConfig
	client *rpc.Client
	uses   atomic.Uint64

	mu      sync.Mutex
	windows map[id.Volume]*window
}

// NewPeer starts to connect to a host. It does not wait for it.
func NewPeer(cfg PeerConfig) (*Peer, error) {
	if cfg.IO == 0 {
		cfg.IO = 5 * time.Minute
	}
	c, err := rpc.NewClient(rpc.ClientConfig{Network: cfg.Network, Address: cfg.Address, Class: rpc.ClassVolume,
		VersionMin: Version, VersionMax: Version, TLS: cfg.TLS, LiveTLS: cfg.LiveTLS, Insecure: cfg.Insecure, Self: cfg.Self, Peer: string(cfg.Host),
		Timing: cfg.Timing, Clock: cfg.Clock, Log: cfg.Log, Stats: cfg.Stats, Pacer: cfg.Pacer, Corker: cfg.Corker})
	if err != nil {
		return nil, fmt.Errorf("configure peer %s: %w", cfg.Host, err)
	}
	return &Peer{cfg: cfg, client: c, windows: make(map[id.Volume]*window)}, nil
}

// window is a volume's, for one more session.
func (p *Peer) window(v id.Volume) *window {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.windows[v]
	if w == nil {
		w = &window{}
		p.windows[v] = w
	}
	w.sessions++
	return w
}

func (p *Peer) unwindow(v id.Volume) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.windows[v]; w.sessions > 1 {
		w.sessions--
	} else {
		delete(p.windows, v)
	}
}

// Host is the peer's name.
func (p *Peer) Host() id.Host { return p.cfg.Host }

// Up tells whether the connection stands.
func (p *Peer) Up() bool { return p.client.Up() }

// Close ends all requests and waits for the peer's goroutines.
func (p *Peer) Close() error { return p.client.Close() }

// Attach opens a volume for a session at its owner; it returns when the older sessions
// of the attachment can do nothing any more (Owner.Attach). Errors: a *NotOwner,
// ErrStaleSession, those of the owner, ErrUnavailable when the peer cannot be reached.
func (p *Peer) Attach(ctx context.Context, volume id.Volume, session Session) (*Remote, error) {
	return p.attach(ctx, opAttach, target{volume, session}, nil)
}

// AttachSnapshot opens a snapshot of a volume at its owner. The session is of this handle
// alone: no other has its attachment.
func (p *Peer) AttachSnapshot(ctx context.Context, volume id.Volume, snapshot id.Snapshot, session Session) (*Remote, error) {
	return p.attach(ctx, opAttachSnapshot, target{volume, session}, snapshot[:])
}

func (p *Peer) attach(ctx context.Context, op uint16, t target, what []byte) (*Remote, error) {
	volume := t.volume
	r := &Remote{peer: p, target: t, use: use(p.uses.Add(1))}
	head := r.use.append(t.append(nil))
	err := p.do(ctx, op, volume, append(slices.Clip(head), what...), func(dec *codec.Reader) {
		size, info := readInfo(dec)
		r.size.Store(size)
		r.info = info
	})
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, errs.ErrTimeout) { // the attach may be under way still
			p.client.Start(&rpc.Call{Op: opDetach, Head: head, Caller: unheard{}})
		}
		return nil, fmt.Errorf("attach volume %s at %s: %w", volume, p.cfg.Host, err)
	}
	r.window = p.window(volume)
	return r, nil
}

type unheard struct{}

func (unheard) Answer(*rpc.Call, []byte, int) error { return nil }
func (unheard) Done(*rpc.Call)                      {}

// do makes a call whose answer is a status and what f reads.
func (p *Peer) do(ctx context.Context, op uint16, v id.Volume, head []byte, f func(dec *codec.Reader)) error {
	var status error
	err := p.client.Do(ctx, op, head, nil, func(_ *rpc.Call, head []byte, payload int) error {
		dec := codec.NewReader(string(p.cfg.Host), head)
		if status = readStatus(&dec, v); status == nil && f != nil {
			f(&dec)
		}
		if dec.End(); dec.Err() != nil {
			return dec.Err()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return status
}

// Remote is a volume at its owner, as one session has it. When the connection breaks, when
// the owner loses the volume or lets a newer session in, every request in flight and
// after ends with an error that wraps nbd.ErrHangup: the client has to come back,
// and to be attached anew.
type Remote struct {
	peer   *Peer
	target target
	use    use
	window *window
	info   nbd.Info
	size   atomic.Uint64
	lost   atomic.Pointer[error]
	closed atomic.Bool
}

var (
	_ nbd.Handle = (*Remote)(nil)
	_ nbd.Corker = (*Remote)(nil)
)

// Cork is part of nbd.Corker.
func (r *Remote) Cork() { r.peer.client.Cork() }

// Uncork is part of nbd.Corker.
func (r *Remote) Uncork() { r.peer.client.Uncork() }

// Size is what the owner said last; see Refresh.
func (r *Remote) Size() uint64 { return r.size.Load() }

// Info is what the owner said at the attach.
func (r *Remote) Info() nbd.Info { return r.info }

// Lost is why the handle is dead; nil while it lives.
func (r *Remote) Lost() error {
	if e := r.lost.Load(); e != nil {
		return *e
	}
	return nil
}

// Refresh asks the owner for the size, which may have grown.
func (r *Remote) Refresh(ctx context.Context) error {
	if err := r.Lost(); err != nil {
		return err
	}
	err := r.peer.do(ctx, opSize, r.target.volume, r.target.append(nil), func(dec *codec.Reader) {
		if size := dec.U64(); dec.Err() == nil {
			r.size.Store(size)
		}
	})
	if err != nil {
		return fmt.Errorf("ask %s for the size of volume %s: %w", r.peer.cfg.Host, r.target.volume, err)
	}
	return nil
}

// detachMax bounds how long Close asks the owner to let go.
const detachMax = 10 * time.Second

// Close tells the owner that the session's connection is gone. Every request must have
// completed. It may be called again.
func (r *Remote) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	closed := error(fmt.Errorf("volume %s: %w", r.target.volume, errs.ErrClosed))
	r.lost.CompareAndSwap(nil, &closed)
	r.peer.unwindow(r.target.volume)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer r.peer.cfg.Clock.AfterFunc(detachMax, cancel).Stop()
	err := r.peer.do(ctx, opDetach, r.target.volume, r.use.append(r.target.append(nil)), nil)
	if err != nil && !errors.Is(err, errs.ErrUnavailable) { // with its connection the owner drops the session
		return fmt.Errorf("detach volume %s at %s: %w", r.target.volume, r.peer.cfg.Host, err)
	}
	return nil
}
