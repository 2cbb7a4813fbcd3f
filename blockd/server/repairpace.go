package server

import (
	"context"
	"time"

	"ashlar.dev/blockd/repair"
	"ashlar.dev/blockd/repair/core"
	"ashlar.dev/blockd/volume"
)

// pacePeriod is how long clients' waits are gathered before they are judged.
const pacePeriod = 500 * time.Millisecond

// paceRepairs lets repairs be as fast as clients do not mind, between the reservation and the
// limit of the configuration.
func (s *server) paceRepairs(ctx context.Context, p *repair.Pace) error {
	g := core.New(core.Config{Reserve: float64(s.cfg.RepairReserve), Limit: float64(s.cfg.RepairRate)})
	p.Set(g.Rate())
	t := s.clock.NewTicker(pacePeriod)
	defer t.Stop()
	moved := p.Moved()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
		before := moved
		moved = p.Moved()
		p.Set(g.Step(moved > before, s.waits()))
	}
}

// waits are what clients wait for on this host: its disks' requests, and the journals of its
// stores, which may be of disks that others own.
func (s *server) waits() map[core.Signal]core.Waits {
	out := make(map[core.Signal]core.Waits)
	s.exports.Owned(func(v *volume.Volume, _ int) {
		t := v.Traffic()
		name := v.ID().String()
		out[core.Signal("reads of "+name)] = core.Waits{Count: t.TimedReads, Total: t.ReadTime}
		out[core.Signal("writes of "+name)] = core.Waits{Count: t.TimedWrites, Total: t.WriteTime}
	})
	for _, st := range s.local.all() {
		n, total := st.GroupTime()
		out[core.Signal("journal of "+st.ID().String())] = core.Waits{Count: n, Total: total}
	}
	return out
}
