package export

import (
	"context"
	"errors"
	"fmt"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/volproto"
)

// Open makes Exports nbd.Exports: name is a disk's name or id, with "#" and the name
// of an attachment behind it if the client wants its older sessions, on any host,
// to be shut out before it is let in; or disk@snapshot, which is only read.
func (x *Exports) Open(ctx context.Context, name string, peer nbd.Peer) (nbd.Handle, error) {
	if name == "" {
		return nil, fmt.Errorf("open export: say which disk, as the export's name: %w", errs.ErrNotFound)
	}
	disk, attachment := splitName(name)
	if of, snapshot, ok := splitSnapshot(disk); ok {
		return x.openSnapshot(ctx, of, snapshot, peer)
	}
	found, err := x.find(ctx, disk)
	if err != nil {
		return nil, fmt.Errorf("open export: %w", err)
	}
	if err := mayOpen(peer, found.name, found.id.String()); err != nil {
		return nil, err
	}
	s, leave := x.sessions.join(found.id, attachment, peer)
	for {
		h, err := x.attach(ctx, found.id, found.name, s)
		if err == nil {
			return &sessionHandle{h, leave}, nil
		}
		gone := peer.HungUp != nil && peer.HungUp() // then it must not shut its successor out
		if errors.Is(err, volproto.ErrStaleSession) && ctx.Err() == nil && !gone {
			s = x.sessions.raise(found.id, s)
			continue
		}
		leave()
		return nil, err
	}
}

// sessionHandle leaves its session when it is closed.
type sessionHandle struct {
	nbd.Handle
	leave func()
}

// Cork and Uncork are passed on.
func (h *sessionHandle) Cork() {
	if c, ok := h.Handle.(nbd.Corker); ok {
		c.Cork()
	}
}

// Uncork ends a Cork.
func (h *sessionHandle) Uncork() {
	if c, ok := h.Handle.(nbd.Corker); ok {
		c.Uncork()
	}
}

func (h *sessionHandle) Close() error {
	defer h.leave()
	return h.Handle.Close()
}

// mayOpen tells whether the peer's certificate allows the disk. Who connects to the
// unix socket has been let in by its file mode.
func mayOpen(peer nbd.Peer, names ...string) error {
	if peer.Certificate == nil {
		return nil
	}
	who, err := pki.IdentityOf(peer.Certificate)
	if err != nil {
		return fmt.Errorf("open disk %q: %w", names[0], errors.Join(errs.ErrDenied, err))
	}
	if !who.MayOpen(names...) {
		return fmt.Errorf("certificate %s does not allow disk %q: %w", who, names[0], errs.ErrDenied)
	}
	return nil
}

// listMax bounds the exports that one client is told of.
const listMax = 1000

// List names the disks that the peer may open.
func (x *Exports) List(ctx context.Context, peer nbd.Peer) ([]nbd.ExportName, error) {
	var out []nbd.ExportName
	after := ""
	for len(out) < listMax {
		page, more, err := x.cfg.Metad.Volumes(ctx, after, 0)
		if err != nil {
			return nil, fmt.Errorf("list disks: %w", err)
		}
		for _, s := range page {
			after = s.Name
			if mayOpen(peer, s.Name, s.ID.String()) == nil && len(out) < listMax {
				out = append(out, nbd.ExportName{Name: s.Name, Description: s.ID.String()})
			}
		}
		if !more || len(page) == 0 {
			break
		}
	}
	return out, nil
}

// Describe tells of a disk without opening it.
func (x *Exports) Describe(ctx context.Context, name string, peer nbd.Peer) (uint64, nbd.Info, error) {
	disk, _ := splitName(name)
	if of, snapshot, ok := splitSnapshot(disk); ok {
		return x.describeSnapshot(ctx, of, snapshot, peer)
	}
	if disk == "" {
		return 0, nbd.Info{}, fmt.Errorf("describe export: say which disk, as the export's name: %w", errs.ErrNotFound)
	}
	found, err := x.find(ctx, disk)
	if err != nil {
		return 0, nbd.Info{}, fmt.Errorf("describe export: %w", err)
	}
	if err := mayOpen(peer, found.name, found.id.String()); err != nil {
		return 0, nbd.Info{}, err
	}
	i := info()
	i.Name, i.Description = found.name, found.id.String()
	return found.size, i, nil
}
