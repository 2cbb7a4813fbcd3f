package main

import (
	"context"
	"math"
	"strings"
	"time"
)

// limited is one limit, what is done to the disk, and what should come of it.
type limited struct {
	set    []string
	l      load
	want   float64
	figure func(outcome) float64
	unit   string
}

func iops(o outcome) float64 { return o.IOPS }
func mbps(o outcome) float64 { return o.MBps }

// limits: what fio gets of a limited disk in 10 s. What it gets without the limit is measured right
// before, since a machine that has no more to give shows nothing of a limit.
func limits(ctx context.Context, b *bench) (err error) {
	c, err := b.startCluster(ctx, b.now(), "")
	if err != nil {
		return err
	}
	defer c.end(&err)
	uri, err := c.disk("d", "1GiB", "b1")
	if err != nil {
		return err
	}
	if err := fill(ctx, uri); err != nil {
		return err
	}
	b.p("| limit | load | without limit | wanted | median of %d | off by | rounds |\n|---|---|--:|--:|--:|--:|---|", rounds)
	for _, x := range []limited{
		{[]string{"--iops", "500"}, load{rw: "randwrite", bs: "4k", depth: 32}, 500, iops, "IOPS"},
		{[]string{"--iops", "1000"}, load{rw: "randread", bs: "4k", depth: 32}, 1000, iops, "IOPS"},
		{[]string{"--bandwidth", "4MiB"}, load{rw: "randwrite", bs: "16k", depth: 32}, 4 * 1.048576, mbps, "MB/s"},
		{[]string{"--bandwidth", "20MiB"}, load{rw: "read", bs: "1m", depth: 4}, 20 * 1.048576, mbps, "MB/s"},
	} {
		x.l.uri = uri
		if err := x.measure(ctx, b, c); err != nil {
			return err
		}
	}
	return nil
}

func (x *limited) measure(ctx context.Context, b *bench, c *cluster) error {
	set := func(args ...string) (outcome, error) {
		if err := c.ashlar(nil, append([]string{"disk", "set", "d"}, args...)...); err != nil {
			return outcome{}, err
		}
		x.l.time = 2 * time.Second // the owner hears of it
		if _, err := x.l.run(ctx); err != nil {
			return outcome{}, err
		}
		x.l.time = 5 * time.Second
		return x.l.run(ctx)
	}
	free, err := set("--iops", "none", "--bandwidth", "none")
	if err != nil {
		return err
	}
	if _, err := set(x.set...); err != nil {
		return err
	}
	x.l.time = 10 * time.Second
	var got []float64
	for range rounds {
		o, err := x.l.run(ctx)
		if err != nil {
			return err
		}
		got = append(got, x.figure(o))
	}
	m := median(got)
	off := (m/x.want - 1) * 100
	say("  %v: %.1f %s, %+.1f %%; without limit %.1f", x.set, m, x.unit, off, x.figure(free))
	verdict := ""
	if math.Abs(off) > 5 {
		verdict = " **missed**"
	}
	b.p("| %s | %s %s q%d | %.0f | %.0f %s | %.1f | %+.1f %%%s | %s |", strings.Join(x.set, " "), x.l.rw, x.l.bs, x.l.depth, x.figure(free), x.want, x.unit, m, off, verdict,
		listed(got, "%.1f"))
	return nil
}

// cost: processor time of all daemons per I/O on a disk without limits, builds in turn.
func cost(ctx context.Context, b *bench) error {
	loads := []load{{rw: "randread", bs: "4k", depth: 32, size: "64m"}, {rw: "randwrite", bs: "4k", depth: 32}}
	got := make(map[string][]float64)
	for range rounds {
		for _, x := range b.builds {
			if err := costOnce(ctx, b, x, loads, got); err != nil {
				return err
			}
		}
	}
	b.p("Processor time of all daemons for each I/O on a disk without limits, µs, median of %d (rounds):\n", rounds)
	b.p("| build | cached randread 4k q32 | randwrite 4k q32 |\n|---|--:|--:|")
	for _, x := range b.builds {
		r, w := got[x.name+"randread"], got[x.name+"randwrite"]
		b.p("| %s | %.2f (%s) | %.1f (%s) |", x.name, median(r), listed(r, "%.2f"), median(w), listed(w, "%.1f"))
	}
	return nil
}

func costOnce(ctx context.Context, b *bench, x build, loads []load, got map[string][]float64) (err error) {
	c, err := b.startCluster(ctx, x, "memory:\n  block_cache: 128MiB\n")
	if err != nil {
		return err
	}
	defer c.end(&err)
	uri, err := c.disk("d", "512MiB", "b1")
	if err != nil {
		return err
	}
	if err := fill(ctx, uri); err != nil {
		return err
	}
	if _, err := (load{uri: uri, rw: "read", bs: "128k", depth: 4, size: "64m"}).run(ctx); err != nil {
		return err
	}
	for _, l := range loads {
		l.uri, l.time = uri, 6*time.Second
		before := c.cpu()
		o, err := l.run(ctx)
		if err != nil {
			return err
		}
		us := (c.cpu() - before) / (o.IOPS * o.Seconds) * 1e6
		say("  %s %s: %.2f µs, %.0f IOPS", x.name, l.rw, us, o.IOPS)
		got[x.name+l.rw] = append(got[x.name+l.rw], us)
	}
	return nil
}
