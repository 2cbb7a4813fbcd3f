package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// transports shows what TLS costs between a client and the disk: nbdcopy reads all of a
// disk written in order (fio cannot be told where certificates are). Between daemons TLS
// is always on.
func (b *bench) transports(ctx context.Context, c *cluster) error {
	say("client side: unix socket, TCP, TCP with TLS")
	const name, mib = "ways", 256
	if _, err := c.ashlar(ctx, "disk", "create", name, "--size", fmt.Sprintf("%dMiB", mib)); err != nil {
		return err
	}
	at, err := c.find(ctx, name)
	if err != nil {
		return err
	}
	t := *c.target
	t.engine = []string{"--ioengine=nbd", "--uri=" + at.Unix}
	if _, err := b.fio(ctx, &t, job{name: "fill", rw: "write", bs: "1m", depth: 8, once: true, sizeMiB: mib}, 0); err != nil {
		return err
	}
	secret := strings.Replace(at.TCP, "nbd://", "nbds://", 1) + "?tls-certificates=" + filepath.Join(c.dir, "pki/nbd")
	for round := range b.plan.Rounds {
		for _, way := range []struct{ name, uri string }{{"unix socket", at.Unix}, {"TCP", at.TCP}, {"TCP with TLS", secret}} {
			b.settle(ctx, &t, seqRead)
			before := b.snap(&t)
			if said, err := exec.CommandContext(ctx, "nbdcopy", way.uri, "null:").CombinedOutput(); err != nil {
				return fmt.Errorf("nbdcopy over %s: %w: %s", way.name, err, lastLine(said))
			}
			after := b.snap(&t)
			r := result{Phase: "transports", Target: way.name, Job: "nbdcopy to null", Round: round, Load: loadAverage(),
				MBps: mib * (1 << 20) / 1e6 / after.at.Sub(before.at).Seconds(), ServerCPU: (after.cpu - before.cpu) / mib * 1e6}
			b.report.Results = append(b.report.Results, r)
			say("  %-16s %7.0f MB/s  server %6.0f µs/MiB", way.name, r.MBps, r.ServerCPU)
		}
	}
	return nil
}
