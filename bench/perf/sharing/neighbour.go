package main

import (
	"context"
	"time"
)

// neighbour: what a disk with one client and one request at a time sees of another that writes
// as much as it can, both owned by one host and by two.
func neighbour(ctx context.Context, b *bench) error {
	n := neighbours{mine: make(map[meeting][]outcome), theirs: make(map[meeting][]outcome)}
	for range rounds {
		for _, x := range b.builds {
			if err := n.once(ctx, b, x); err != nil {
				return err
			}
		}
	}
	b.p("The small disk is owned by b1: 4 KiB, one request at a time. The greedy one makes random writes of 4 KiB, 128 at a time. Medians of %d, builds in turn.\n", rounds)
	b.p("| small does | greedy's owner | build | small: p50, µs | p99, µs | IOPS | greedy: MB/s | p99 of the rounds |\n|---|---|---|--:|--:|--:|--:|---|")
	for _, rw := range smallDoes {
		for _, host := range []string{"nobody", "b1", "b2"} {
			for _, x := range b.builds {
				n.row(b, meeting{x.name, host, rw})
			}
		}
	}
	return nil
}

var smallDoes = []string{"randwrite", "randread"}

// meeting is one row of the table.
type meeting struct{ build, host, rw string }

type neighbours struct{ mine, theirs map[meeting][]outcome }

func (n *neighbours) row(b *bench, k meeting) {
	o := n.mine[k]
	of := func(f func(outcome) float64) float64 { return median(each(o, f)) }
	p99 := each(o, func(o outcome) float64 { return o.P99 })
	b.p("| %s | %s | %s | %.0f | %.0f | %.0f | %.0f | %s |", k.rw, k.host, k.build, of(func(o outcome) float64 { return o.P50 }), median(p99),
		of(func(o outcome) float64 { return o.IOPS }), median(each(n.theirs[k], func(o outcome) float64 { return o.MBps })), listed(p99, "%.0f"))
}

// once measures one build on a cluster of its own.
func (n *neighbours) once(ctx context.Context, b *bench, x build) (err error) {
	c, err := b.startCluster(ctx, x, "memory:\n  block_cache: 16MiB\n")
	if err != nil {
		return err
	}
	defer c.end(&err)
	small, err := c.disk("small", "512MiB", "b1")
	if err != nil {
		return err
	}
	if err := fill(ctx, small); err != nil {
		return err
	}
	for _, rw := range smallDoes {
		l := load{uri: small, rw: rw, bs: "4k", depth: 1, time: 5 * time.Second}
		o, err := l.run(ctx)
		if err != nil {
			return err
		}
		alone := meeting{x.name, "nobody", rw}
		n.mine[alone] = append(n.mine[alone], o)
	}
	for _, host := range []string{"b1", "b2"} {
		greedy, err := c.disk("greedy-"+host, "1GiB", host)
		if err != nil {
			return err
		}
		for _, rw := range smallDoes {
			l := load{uri: small, rw: rw, bs: "4k", depth: 1, time: 5 * time.Second}
			mine, theirs, err := l.beside(ctx, load{uri: greedy, rw: "randwrite", bs: "4k", depth: 128})
			if err != nil {
				return err
			}
			k := meeting{x.name, host, rw}
			n.mine[k], n.theirs[k] = append(n.mine[k], mine), append(n.theirs[k], theirs)
			say("  %v: p99 %.0f µs, the other %.0f IOPS", k, mine.P99, theirs.IOPS)
		}
	}
	return nil
}
