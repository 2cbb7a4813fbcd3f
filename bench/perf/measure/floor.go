package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/stripe"
)

// floorPiece is what one step of an I/O costs when nothing else is done, in microseconds; processor time is of both ends.
type floorPiece struct {
	Name    string  `json:"name"`
	Latency float64 `json:"latency_us"`
	CPU     float64 `json:"cpu_us"`
}

const (
	floorTime = 2 * time.Second
	floorMiB  = 1 << 20
)

// floor measures the pieces that every I/O of a replicated disk on one machine is made of, each alone: what is left
// of its cost after their sum is ours to explain.
func (b *bench) floor(ctx context.Context) error {
	b.report.Plan, b.report.Machine, b.report.Started = b.plan, machine(b.root, b.dir), time.Now()
	p, err := b.startPeer("peer1")
	if err != nil {
		return err
	}
	q, err := b.startPeer("peer2")
	if err != nil {
		return err
	}
	own, err := openLog(b.dir + "/own")
	if err != nil {
		return err
	}
	defer own.close()
	block, shard := make([]byte, 4096), make([]byte, floorMiB/4)
	steps := []struct {
		name string
		do   func() (int, error)
	}{
		{"TLS, 4 KiB back from a peer, q1", p.rounds(1, nil, 4096)},
		{"TLS, 4 KiB back from a peer, q3", p.rounds(3, nil, 4096)},
		{"TLS, 4 KiB back from a peer, q32", p.rounds(32, nil, 4096)},
		{"TLS, 16 KiB back from a peer, q16", p.rounds(16, nil, 16384)},
		{"TLS, 256 KiB to a peer, q8", p.rounds(8, shard, 16)},
		{"TLS, 256 KiB back from a peer, q8", p.rounds(8, nil, floorMiB/4)},
		{"append 4 KiB, fdatasync, here", func() (int, error) { return 1, own.append(4096) }},
		{"append 4 KiB here and at two peers, all durable, q1", ensemble(own, p, q, 1, block)},
		{"append 4 KiB here and at two peers, all durable, q2 in batches", ensemble(own, p, q, 2, block)},
		{"append 4 KiB here and at two peers, all durable, q32 in batches", ensemble(own, p, q, 32, block)},
		{"1 MiB: sums of blocks, 4+2, sums of parity, check of six shards", coding()},
		{"1.5 MiB to the disk in six writes, each durable", func() (int, error) { return 1, appendSix(own) }},
	}
	say("floor: each piece for %v", floorTime)
	for _, s := range steps {
		x, err := measurePiece(ctx, s.do, p, q)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		x.Name = s.name
		say("  %-70s %8.1f µs, %8.1f µs of processor", x.Name, x.Latency, x.CPU)
		b.report.Floor = append(b.report.Floor, x)
	}
	return b.floorOfDisk(ctx)
}

// measurePiece repeats do for a while; it tells how many it did. The latency is the time for one of them, in a row.
func measurePiece(ctx context.Context, do func() (int, error), peers ...*peer) (x floorPiece, err error) {
	cpu := func() (sum float64) {
		for _, p := range peers {
			sum += cpuOf(p.cmd.Process.Pid)
		}
		return sum + cpuOf(os.Getpid())
	}
	for range 3 { // warm
		if _, err := do(); err != nil {
			return x, err
		}
	}
	at, before, n := time.Now(), cpu(), 0
	for time.Since(at) < floorTime && ctx.Err() == nil {
		k, err := do()
		if err != nil {
			return x, err
		}
		n += k
	}
	took := time.Since(at)
	return floorPiece{Latency: took.Seconds() * 1e6 / float64(n), CPU: (cpu() - before) * 1e6 / float64(n)}, ctx.Err()
}

// rounds sends depth requests together and waits for all answers: batches as large as they can be.
func (p *peer) rounds(depth int, payload []byte, want int) func() (int, error) {
	return func() (int, error) {
		if err := p.send(depth, false, payload, want); err != nil {
			return 0, err
		}
		return depth, p.receive(depth, want)
	}
}

// ensemble appends depth blocks as one batch here and at both peers, and waits for all three.
func ensemble(own *appendLog, p, q *peer, depth int, block []byte) func() (int, error) {
	return func() (int, error) {
		for _, x := range []*peer{p, q} {
			if err := x.send(depth, true, block, 16); err != nil {
				return 0, err
			}
		}
		if err := own.append(depth * len(block)); err != nil {
			return 0, err
		}
		for _, x := range []*peer{p, q} {
			if err := x.receive(depth, 16); err != nil {
				return 0, err
			}
		}
		return depth, nil
	}
}

func appendSix(own *appendLog) error {
	for range 6 {
		if err := own.append(floorMiB / 4); err != nil {
			return err
		}
	}
	return nil
}

// coding is the arithmetic of a long write: sums at the door, parity, and the stores' check of what they write.
func coding() func() (int, error) {
	code, err := stripe.For(stripe.Profile{K: 4, M: 2})
	data := make([]byte, floorMiB)
	for i := range data {
		data[i] = byte(i * 7)
	}
	slots := make([][]byte, floorMiB/4096)
	for i := range slots {
		slots[i] = data[i*4096:][:4096]
	}
	parity := [][]byte{make([]byte, floorMiB/4), make([]byte, floorMiB/4)}
	sum := func(p []byte) (x uint32) {
		for i := 0; i < len(p); i += 4096 {
			x ^= codec.CRC(p[i:][:4096])
		}
		return x
	}
	return func() (int, error) {
		if err != nil {
			return 0, err
		}
		sum(data)
		code.EncodeSlots(slots, parity)
		for range 2 { // when they are made, and at their stores
			sum(parity[0])
			sum(parity[1])
		}
		sum(data)
		return 1, nil
	}
}

// floorOfDisk reads the device with nothing between.
func (b *bench) floorOfDisk(ctx context.Context) error {
	raw := b.rawFile("raw file")
	if err := b.fill(ctx, raw); err != nil {
		return err
	}
	for _, j := range []job{{name: "rread 4k q1", rw: "randread", bs: "4k", depth: 1}, randRead32, seqRead} {
		out, err := b.fio(ctx, raw, j, floorTime)
		if err != nil {
			return err
		}
		f := out.Jobs[0]
		x := floorPiece{Name: "fio alone on a raw file, " + j.name, Latency: f.Runtime * 1000 / f.Read.IOs, CPU: (f.User + f.System) / 100 * f.Runtime * 1000 / f.Read.IOs}
		say("  %-70s %8.1f µs, %8.1f µs of processor", x.Name, x.Latency, x.CPU)
		b.report.Floor = append(b.report.Floor, x)
	}
	return nil
}

func (r *report) floorMarkdown() string {
	var w strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	m := r.Machine
	p("\n## floor\n")
	p("`make bench BENCH=floor` on %s, commit %s, %.0f s. %d cores of %s, %s, kernel %s.\n", r.Started.UTC().Format("2006-01-02 15:04 UTC"), m.Commit, r.Took, m.Cores, m.CPU, m.Memory, m.Kernel)
	p("Each piece that an I/O of a replicated disk on one machine is made of, alone, with nothing else of a disk around it. Processes talk over loopback with TLS 1.3, many records to a system call; those that came together are appended and answered together. Time for one of them, and processor time of all processes.\n")
	p("| piece | time, µs | processor, µs |\n|---|--:|--:|")
	for _, x := range r.Floor {
		p("| %s | %.1f | %.1f |", x.Name, x.Latency, x.CPU)
	}
	return w.String() + "\n"
}
