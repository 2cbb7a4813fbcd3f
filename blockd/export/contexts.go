package export

import (
	"context"
	"fmt"
	"strings"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/nbd"
)

// MetaContexts makes Exports nbd.MetaContexts. A context's key is the snapshot's id, so it stays
// what it was when it was selected, whatever gets its name later.
func (x *Exports) MetaContexts(ctx context.Context, export, query string, peer nbd.Peer) ([]nbd.MetaContext, error) {
	list := query == "" || strings.HasSuffix(query, ":")
	if !strings.HasPrefix(query, client.ChangedContext) && (!list || !strings.HasPrefix(client.ChangedContext, query)) {
		return nil, nil
	}
	disk, _ := splitName(export)
	disk, _, _ = splitSnapshot(disk)
	rec, err := x.cfg.Metad.FindKept(ctx, disk)
	if err != nil {
		return nil, fmt.Errorf("find disk %q: %w", disk, err)
	}
	if err := mayOpen(peer, rec.Name, rec.ID.String()); err != nil {
		return nil, err
	}
	var out []nbd.MetaContext
	for _, s := range rec.Snapshots {
		if s.State != cluster.SnapshotReady {
			continue
		}
		name, alias := client.ChangedContext+s.Name, client.ChangedContext+s.ID.String()
		switch {
		case list || query == name:
			out = append(out, nbd.MetaContext{Name: name, Key: nbd.ContextKey(s.ID)})
		case query == alias:
			out = append(out, nbd.MetaContext{Name: alias, Key: nbd.ContextKey(s.ID)})
		}
	}
	return out, nil
}
