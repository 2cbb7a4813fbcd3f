package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// transports shows what TLS costs between a client and the disk: nbdcopy reads all of it
// (fio cannot be told where certificates are). Between daemons TLS is always on.
func (b *bench) transports(ctx context.Context, c *cluster) error {
	say("client side: unix socket, TCP, TCP with TLS")
	secret := strings.Replace(c.endpoint.TCP, "nbd://", "nbds://", 1) + "?tls-certificates=" + filepath.Join(c.dir, "pki/nbd")
	for round := range b.plan.Rounds {
		for _, way := range []struct{ name, uri string }{{"unix socket", c.endpoint.Unix}, {"TCP", c.endpoint.TCP}, {"TCP with TLS", secret}} {
			b.settle(ctx, c.target, seqRead)
			before := b.snap(c.target)
			if said, err := exec.CommandContext(ctx, "nbdcopy", way.uri, "null:").CombinedOutput(); err != nil {
				return fmt.Errorf("nbdcopy over %s: %w: %s", way.name, err, lastLine(said))
			}
			after := b.snap(c.target)
			mib := float64(b.plan.DiskMiB)
			r := result{Phase: "transports", Target: way.name, Job: "nbdcopy, all of the disk", Round: round, Load: loadAverage(),
				MBps: mib * (1 << 20) / 1e6 / after.at.Sub(before.at).Seconds(), ServerCPU: (after.cpu - before.cpu) / mib * 1e6}
			b.report.Results = append(b.report.Results, r)
			say("  %-16s %7.0f MB/s  server %6.0f µs/MiB", way.name, r.MBps, r.ServerCPU)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}
