package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// plan is how thorough a run is.
type plan struct {
	Name       string
	Rounds     int
	Job        time.Duration // length of a job
	DiskMiB    int           // size of the disk, all of it written before
	CacheMiB   int           // block cache of each blockd
	CachedMiB  int           // what the reads from cache go over
	BufferMiB  int           // write buffer of each blockd
	SteadyFill time.Duration // longest wait for full buffers
	Steady     time.Duration // window after that
	Settle     time.Duration // longest wait for quiet servers between jobs
	PackDelay  time.Duration // that packing is held up
	MapMiB     int           // map cache of each blockd; 0: what blockd takes by itself
}

var plans = map[string]plan{
	"full": {Name: "full", Rounds: 3, Job: 6 * time.Second, DiskMiB: 2048, CacheMiB: 96, CachedMiB: 32, BufferMiB: 512,
		SteadyFill: 60 * time.Second, Steady: 60 * time.Second, Settle: 6 * time.Second},
	"quick": {Name: "quick", Rounds: 1, Job: 2 * time.Second, DiskMiB: 1024, CacheMiB: 48, CachedMiB: 16, BufferMiB: 512,
		SteadyFill: 15 * time.Second, Steady: 10 * time.Second, Settle: 3 * time.Second},
	"aging":    {Name: "aging", DiskMiB: 4096, CacheMiB: 96, BufferMiB: 512},
	"recovery": {Name: "recovery", DiskMiB: 1024, CacheMiB: 48, BufferMiB: 512, PackDelay: 10 * time.Minute},
	"floor":    {Name: "floor", DiskMiB: 1024},
	"pieces":   {Name: "pieces", Job: 11 * time.Second, DiskMiB: 2048, CacheMiB: 96, BufferMiB: 512, SteadyFill: 40 * time.Second, Settle: 6 * time.Second},
	"map":      {Name: "map", DiskMiB: 1 << 20, MapMiB: 256},
}

const usage = `measure, from the top of the tree: measures this tree beside other servers
(make bench builds everything first; bench/perf/README.md says what and how).

  BENCH      full (also if not set), quick, aging, recovery, map, floor or pieces
  BENCH_DIR  where the disks lie, which is the device that is measured: /var/tmp if not set
`

func main() {
	if file := os.Getenv(peerEnv); file != "" {
		if err := servePeer(file); err != nil {
			fmt.Fprintln(os.Stderr, "bench/perf peer:", err)
			os.Exit(1)
		}
		return
	}
	flag.Usage = func() { fmt.Fprint(flag.CommandLine.Output(), usage) }
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench/perf: %q: there are no arguments\n\n%s", flag.Args(), usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/perf:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	name := os.Getenv("BENCH")
	if name == "" {
		name = "full"
	}
	p, ok := plans[name]
	if !ok {
		return fmt.Errorf("BENCH=%s: want full, quick, aging, recovery, map, floor or pieces", name)
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "bench/perf/run")); err != nil {
		return fmt.Errorf("not at the top of the tree: %w", err)
	}
	parent := os.Getenv("BENCH_DIR")
	if parent == "" {
		parent = "/var/tmp" // /tmp may be memory
	}
	dir, err := os.MkdirTemp(parent, "ab")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{plan: p, root: root, dir: dir, disk: diskOf(dir)}
	defer b.stop() // before its folder goes
	measure := b.measure
	switch name {
	case "aging":
		measure = b.aging
	case "recovery":
		measure = b.recoveries
	case "map":
		measure = b.bigMap
	case "floor":
		measure = b.floor
	case "pieces":
		measure = b.allPieces
	}
	if err := measure(ctx); err != nil {
		logs, _ := filepath.Glob(filepath.Join(dir, "c/log/*.log"))
		for _, path := range logs { // the folder goes
			text, _ := os.ReadFile(path)
			fmt.Fprintf(os.Stderr, "%s: %s\n", filepath.Base(path), lastLine(text))
		}
		return err
	}
	return b.report.write(filepath.Join(root, "bench/perf"))
}

// bench is one measurement from start to end.
type bench struct {
	plan      plan
	root, dir string
	disk      string // counters of the block device
	report    report
	running   []func()
	files     []*os.File // of disks behind the page cache
}

func (b *bench) stop() {
	for i := len(b.running) - 1; i >= 0; i-- {
		b.running[i]()
	}
	for _, f := range b.files {
		_ = f.Close() // nothing was written through it
	}
	b.running, b.files = nil, nil
}

func (b *bench) measure(ctx context.Context) error {
	b.report.Plan, b.report.Machine, b.report.Started = b.plan, machine(b.root, b.dir), time.Now()
	if err := b.ceilings(ctx); err != nil {
		return err
	}
	cluster, err := b.matrix(ctx)
	if err != nil {
		return err
	}
	if err := b.steady(ctx, cluster); err != nil {
		return err
	}
	if err := b.transports(ctx, cluster); err != nil {
		return err
	}
	if err := b.plain(ctx, cluster); err != nil {
		return err
	}
	return b.slowSyncs(ctx, cluster)
}

// ceilings tries the protocol alone, and the disk alone.
func (b *bench) ceilings(ctx context.Context) error {
	say("ceilings: servers without storage, and appends to plain files")
	starters := []func(context.Context) (*target, error){
		b.ours("null"), b.nbdkit("nbdkit null", "null", fmt.Sprintf("%dM", b.plan.DiskMiB)), b.ours("memory"), b.nbdkitMemory("nbdkit memory"),
	}
	var targets []*target
	for _, start := range starters {
		t, err := start(ctx)
		if err != nil {
			return err
		}
		targets = append(targets, t)
		if err := b.fill(ctx, t); err != nil {
			return err
		}
	}
	for round := range b.plan.Rounds {
		for _, j := range []job{seqWrite, seqRead, randRead32, randWrite32} {
			for _, t := range targets {
				if err := b.run(ctx, "ceilings", t, j, round, b.plan.Job/2); err != nil {
					return err
				}
			}
		}
		for _, bytes := range []string{"4k", "128k"} {
			if err := b.run(ctx, "ceilings", b.rawFile("append"), appends(bytes), round, b.plan.Job/2); err != nil {
				return err
			}
		}
	}
	b.stop()
	return nil
}

// matrix is the fixed set of jobs against all targets.
func (b *bench) matrix(ctx context.Context) (*cluster, error) {
	say("matrix: every job against every target in turn")
	targets := []*target{b.rawFile("raw file")}
	for _, start := range []func(context.Context) (*target, error){b.nbdkitMemory("nbdkit memory"), b.nbdkitFile, b.qemuFile} {
		t, err := start(ctx)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	c, err := b.startCluster(ctx)
	if err != nil {
		return nil, err
	}
	targets = append(targets, c.target)
	for _, t := range targets {
		if err := b.fill(ctx, t); err != nil {
			return nil, err
		}
	}
	if err := b.verify(ctx, c.target); err != nil {
		return nil, err
	}
	for round := range b.plan.Rounds {
		for _, j := range jobs {
			for _, t := range targets {
				if err := b.run(ctx, "matrix", t, j, round, b.plan.Job); err != nil {
					return nil, err
				}
			}
		}
		if err := b.run(ctx, "matrix", c.target, scattered, round, b.plan.Job); err != nil {
			return nil, err
		}
		if err := b.cached(ctx, c.target, round); err != nil {
			return nil, err
		}
	}
	for _, t := range targets[:len(targets)-1] {
		t.stop()
	}
	return c, nil
}

// cached reads a small part again and again, once to fill the cache.
func (b *bench) cached(ctx context.Context, t *target, round int) error {
	warm := job{name: "warm", rw: "read", bs: "128k", depth: 4, sizeMiB: b.plan.CachedMiB, once: true}
	if _, err := b.fio(ctx, t, warm, 0); err != nil {
		return err
	}
	j := randRead32
	j.name, j.sizeMiB = "rread 4k q32 cached", b.plan.CachedMiB
	return b.run(ctx, "matrix", t, j, round, b.plan.Job)
}

// plain starts the cluster again without TLS between the daemons, and with it, in turn.
func (b *bench) plain(ctx context.Context, c *cluster) error {
	say("with and without TLS between the daemons")
	with := c.target
	without := *with
	without.name = "ashlar 4+2 without TLS"
	defer func() { c.target = with }()
	for round := range b.plan.Rounds {
		for _, t := range []*target{with, &without} {
			c.stop()
			c.target = t
			if err := c.writeOverlay(t == with); err != nil {
				return err
			}
			if err := c.start(ctx); err != nil {
				return err
			}
			for _, j := range []job{seqWrite, seqRead, randRead32, randWrite32, mix} {
				if err := b.run(ctx, "plain", t, j, round, b.plan.Job/2); err != nil {
					return err
				}
			}
		}
	}
	return c.writeOverlay(true)
}

// slowSyncs starts the cluster again with a millisecond added to every fdatasync.
func (b *bench) slowSyncs(ctx context.Context, c *cluster) error {
	say("1 ms added to every fdatasync")
	c.stop()
	if err := c.start(ctx, "--sync-delay", "1ms"); err != nil {
		return err
	}
	for round := range b.plan.Rounds {
		for _, j := range []job{randWrite1, randWrite32} {
			if err := b.run(ctx, "sync1ms", c.target, j, round, b.plan.Job); err != nil {
				return err
			}
		}
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...)
}
