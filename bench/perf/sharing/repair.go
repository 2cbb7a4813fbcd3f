package main

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"
)

// repairing: what clients wait before and while two stores of a host that is gone are rebuilt on the
// others, with 1 ms added to each fdatasync; and how fast that goes, with and without clients.
func repairing(ctx context.Context, b *bench) error {
	var rows []repairRow
	for range rounds {
		r, err := repairOnce(ctx, b)
		if err != nil {
			return err
		}
		rows = append(rows, r)
		say("  p99 %.0f µs before, %.0f µs during; %.1f MB/s with clients, %.1f MB/s without, %.1f ms CPU per MB", r.before.P99, r.during.P99, r.busy, r.idle, r.cpu*1e3)
	}
	of := func(f func(repairRow) float64) (float64, []float64) {
		var v []float64
		for _, r := range rows {
			v = append(v, f(r))
		}
		return median(v), v
	}
	b.p("4 hosts of two stores, 4+2, 1 ms added to each fdatasync, a disk of 1 GiB written in full. One host is stopped for good and its stores are given up. "+
		"Clients: randwrite 4k q4 for 10 s before, and for 10 s from the start of the repair on. Medians of %d (rounds).\n", rounds)
	b.p("| | median | rounds |\n|---|--:|---|")
	row := func(name, format string, f func(repairRow) float64) {
		m, v := of(f)
		b.p("| %s | "+format+" | %s |", name, m, listed(v, format))
	}
	row("p99 before, µs", "%.0f", func(r repairRow) float64 { return r.before.P99 })
	row("p99 during, µs", "%.0f", func(r repairRow) float64 { return r.during.P99 })
	row("p99 during ÷ before", "%.2f", func(r repairRow) float64 { return r.during.P99 / r.before.P99 })
	row("p50 before, µs", "%.0f", func(r repairRow) float64 { return r.before.P50 })
	row("p50 during, µs", "%.0f", func(r repairRow) float64 { return r.during.P50 })
	row("IOPS before", "%.0f", func(r repairRow) float64 { return r.before.IOPS })
	row("IOPS during", "%.0f", func(r repairRow) float64 { return r.during.IOPS })
	row("repair beside clients, MB/s", "%.1f", func(r repairRow) float64 { return r.busy })
	row("repair without clients, MB/s (NaN: too little was left)", "%.1f", func(r repairRow) float64 { return r.idle })
	row("CPU of all daemons, ms per MB repaired without clients", "%.1f", func(r repairRow) float64 { return r.cpu * 1e3 })
	if m, _ := of(func(r repairRow) float64 { return r.during.P99 / r.before.P99 }); m > 2 {
		b.p("\nThe mark, at most twice: **missed**.")
	} else {
		b.p("\nThe mark, at most twice: met.")
	}
	return nil
}

type repairRow struct {
	before, during outcome
	busy, idle     float64 // MB/s
	cpu            float64 // s per MB
}

func repairOnce(ctx context.Context, b *bench) (r repairRow, err error) {
	c, err := b.startCluster(ctx, b.now(), "", "--blockd", "4", "--sync-delay", "1ms")
	if err != nil {
		return r, err
	}
	defer c.end(&err)
	uri, err := c.disk("d", "1GiB", "b1")
	if err != nil {
		return r, err
	}
	if err := fill(ctx, uri); err != nil {
		return r, err
	}
	l := load{uri: uri, rw: "randwrite", bs: "4k", depth: 4, time: 10 * time.Second}
	if _, err := (load{uri: uri, rw: "randwrite", bs: "4k", depth: 4, time: 3 * time.Second}).run(ctx); err != nil {
		return r, err
	}
	pid := c.pid("b4")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return r, err
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }() // so that it can be ended
	stores, err := c.downStores(ctx, "b4")
	if err != nil {
		return r, err
	}
	time.Sleep(3 * time.Second) // journals find other stores
	if r.before, err = l.run(ctx); err != nil {
		return r, err
	}
	for _, s := range stores {
		if err := c.ashlar(nil, "store", "remove", s, "--sure"); err != nil {
			return r, err
		}
	}
	if err := c.await(ctx, "the repair to begin", time.Minute, func() bool { return c.repairDone() > 0 }); err != nil {
		return r, err
	}
	began, at := c.repairDone(), time.Now()
	if r.during, err = l.run(ctx); err != nil {
		return r, err
	}
	r.busy = (c.repairDone() - began) / 1e6 / time.Since(at).Seconds()
	began, at = c.repairDone(), time.Now()
	cpu := c.cpu()
	err = c.await(ctx, "some of the repair", 3*time.Minute, func() bool { return c.repairLeft() == 0 || time.Since(at) > 10*time.Second })
	if err != nil {
		return r, err
	}
	moved := (c.repairDone() - began) / 1e6
	if r.idle, r.cpu = math.NaN(), math.NaN(); moved > 20 {
		r.idle, r.cpu = moved/time.Since(at).Seconds(), (c.cpu()-cpu)/moved
	}
	if r.busy == 0 {
		return r, fmt.Errorf("the repair was over before it was measured")
	}
	return r, nil
}

// repairDone is what the live blockds have moved for repair; repairLeft what metad knows to be left.
func (c *cluster) repairDone() float64 { return c.metric("blockd_repair_moved_bytes_total") }

func (c *cluster) repairLeft() float64 {
	var s struct{ Repair struct{ BytesLeft float64 } }
	if c.ashlar(&s, "status") != nil {
		return 1
	}
	return s.Repair.BytesLeft
}

// downStores waits until both stores of a host are down, and names them.
func (c *cluster) downStores(ctx context.Context, host string) (down []string, err error) {
	return down, c.await(ctx, "the host to be down", time.Minute, func() bool {
		var stores []struct{ StoreID, Host, State string }
		down = nil
		if c.ashlar(&stores, "store", "list") != nil {
			return false
		}
		for _, s := range stores {
			if s.Host == host && s.State == "down" {
				down = append(down, s.StoreID)
			}
		}
		return len(down) == 2
	})
}
