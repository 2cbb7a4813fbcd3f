// Package volumetest starts processes that open volumes, with all that volumes of one process share: the
// tests of the engine (blockd/volume), those of long pasts (bench/history) and those of power cuts
// (bench/crash) begin with it. Stores are whatever the test has.
package volumetest

import (
	"context"
	"log/slog"
	"time"

	"ashlar.dev/blockd/journal"
	"ashlar.dev/blockd/packer"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/blockd/volume/coretest"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lifecycle"
)

// Config says what a process is given. Metad, Stores and Holder are required.
type Config struct {
	Metad      *coretest.Metad
	Stores     volume.Stores
	Holder     id.Holder
	PutTimeout time.Duration // of shards; zero: 300 ms
	Cache      *reader.Cache // nil: none
}

// Process is one that can open volumes. Safe for concurrent use.
type Process struct {
	Holder id.Holder
	Leases *volume.Leases
	Packer *packer.Packer
	Reader *reader.Reader

	cfg    Config
	group  *lifecycle.Group
	cancel context.CancelFunc
}

// Start begins a process, which has nothing open yet. Who starts it kills it.
func Start(c Config) *Process {
	if c.PutTimeout == 0 {
		c.PutTimeout = 300 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Process{Holder: c.Holder, cfg: c, cancel: cancel}
	p.Leases = volume.NewLeases(ctx, c.Holder, 50*time.Millisecond, c.Stores, clock.System)
	p.Packer = packer.New(ctx, packer.Config{Stores: c.Stores, Topology: c.Metad.Topology, PutTimeout: c.PutTimeout})
	p.Reader = reader.New(reader.Config{Stores: c.Stores, Topology: c.Metad.Topology, Clock: clock.System, Cache: c.Cache})
	p.group = lifecycle.NewGroup(ctx)
	p.group.Go("hedge", func(ctx context.Context) error {
		for clock.System.Sleep(ctx, 5*time.Millisecond) == nil {
			p.Reader.Tick(clock.System.Now())
		}
		return nil
	})
	return p
}

// Kill ends the process: nothing of it goes on. Volumes that it has open are abandoned by whoever opened them.
func (p *Process) Kill() {
	p.cancel()
	_ = p.Leases.Close() // it died
	_ = p.Packer.Close()
	_ = p.group.Close()
}

// Open acquires a volume from metad and opens it; change, if set, sees the configuration before.
func (p *Process) Open(ctx context.Context, v id.Volume, limits core.Limits, change func(*volume.Config)) (*volume.Volume, error) {
	rec, err := p.cfg.Metad.Acquire(v, p.Holder)
	if err != nil {
		return nil, err
	}
	lend(p.cfg.Metad, rec)
	c := volume.Config{
		Record: rec, Holder: p.Holder, Metad: p.cfg.Metad, Stores: p.cfg.Stores, Reader: p.Reader, Packer: p.Packer, Leases: p.Leases,
		Budget: blockmap.NewBudget(64), Clock: clock.System, Log: slog.New(slog.DiscardHandler),
		Limits: limits, Journal: journal.Limits{ReplaceAfter: 200 * time.Millisecond},
		Ended: func(v *volume.Volume, _ error) { v.Abandon() },
	}
	if change != nil {
		change(&c)
	}
	return volume.Open(ctx, c)
}

// lend tells a clone what its ancestors have in archives, as metad's leader does.
func lend(m *coretest.Metad, rec *cluster.Volume) {
	for _, a := range rec.Origin.Chain() {
		if x := m.Record(a.Volume).Restored; x != nil {
			rec.Lent = append(rec.Lent, *x)
		}
	}
}
