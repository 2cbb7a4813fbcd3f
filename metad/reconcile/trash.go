package reconcile

import (
	"fmt"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
)

// TrashUsed is what the disks in the trash take on stores. What snapshots there take by themselves nobody counts.
func (l *Liveness) TrashUsed(m *state.Machine, t *cluster.Topology) (n uint64) {
	for _, v := range m.Trashed() {
		if v.Trashed() {
			n += l.Used(t, v.ID)
		}
	}
	return n
}

// trashText says, where space runs out, what could be given up.
func (l *Liveness) trashText(m *state.Machine, t *cluster.Topology) string {
	if len(m.Trashed()) == 0 {
		return ""
	}
	return fmt.Sprintf("; disks in the trash hold %s, snapshots there more (ashlar trash list)", config.ByteSize(l.TrashUsed(m, t)).Human())
}
