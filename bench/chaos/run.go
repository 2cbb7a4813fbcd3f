package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ashlar.dev/bench/chaos/fleet"
	"ashlar.dev/bench/chaos/history"
	"ashlar.dev/bench/chaos/load"
	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/block"
)

// Options say how to run.
type Options struct {
	Seed uint64
	// For is how long faults are begun; getting well and judging come on top.
	For time.Duration
	// Kinds, if not empty, are the only kinds of faults that the seed's plan has.
	Kinds []Kind
	// BinDir has the binaries; Out gets lines for people, SaveDir what is needed to look into a failure.
	BinDir, SaveDir string
	Out             io.Writer
}

// Deadlines, generous for a slow machine with other work: what takes longer does not come back.
const (
	readyTimeout   = 90 * time.Second
	recoverTimeout = 60 * time.Second
	judgeTimeout   = 30 * time.Second // of one cell
)

// The regions of each disk: blocks, quarters of blocks, and a long stretch to fill buffers with.
const (
	blocks = iota
	quarters
	stretch
)

var regions = []history.Region{
	{Offset: 0, Size: block.Size, Count: 1024},
	{Offset: 8 << 20, Size: block.Size / 4, Count: 256},
	{Offset: 16 << 20, Size: block.Size, Count: 12288},
}

const diskSize = "128MiB"

// Run carries out the plan of a seed, or finds out why it cannot. The report says what was
// found; an error means that the run did not come to its end.
func Run(o Options) (*Report, error) {
	f, err := fleet.New(fleet.Options{BinDir: o.BinDir})
	if err != nil {
		return nil, err
	}
	r := &runner{o: o, fleet: f, report: &Report{Seed: o.Seed}, plan: NewPlan(o.Seed, o.Kinds...), start: time.Now()}
	err = r.run()
	r.judge()
	err = errors.Join(err, f.Stop())
	r.report.Deaths = f.Deaths()
	if logErr := cluster.CheckLogs(f.Logs(), allowed); logErr != nil {
		r.report.Logs = logErr.Error()
	}
	err = errors.Join(err, f.Close())
	if err != nil || !r.report.OK() {
		return r.report, errors.Join(err, r.save())
	}
	return r.report, errors.Join(err, os.RemoveAll(f.Dir))
}

// runner is one run.
type runner struct {
	o       Options
	fleet   *fleet.Fleet
	plan    *Plan
	report  *Report
	disks   []*load.Disk
	start   time.Time
	clients int
	lost    []string // ids of stores, by the fault under way
}

func (r *runner) say(format string, args ...any) {
	fmt.Fprintf(r.o.Out, "%7.1fs  "+format+"\n", append([]any{time.Since(r.start).Seconds()}, args...)...)
}

func (r *runner) run() error {
	if err := r.fleet.StartAll(); err != nil {
		return err
	}
	if err := r.fleet.CLI.WaitHealthy(readyTimeout); err != nil {
		return err
	}
	for _, name := range []string{"one", "two"} {
		d, err := r.fleet.CLI.Create(name, diskSize)
		if err != nil {
			return err
		}
		var uris []string
		for _, b := range r.fleet.Blockds() {
			uris = append(uris, fmt.Sprintf("nbd+unix:///%s?socket=%s", d.DiskID, r.fleet.Socket(b)))
		}
		r.disks = append(r.disks, load.NewDisk(name, uris, regions...))
	}
	verified, err := r.verify()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	for _, w := range r.workers() {
		workers.Go(func() { w.Run(ctx) })
	}
	err = r.faults()
	cancel()
	workers.Wait()
	if err = errors.Join(err, verified()); err != nil {
		return err
	}
	return r.last()
}

// What fio writes in a pass and reads back; it ends the pass under way when the run is over.
const (
	verifiedSize = 64 << 20
	verifiedPass = 24 << 20
	verifiedRate = 100
	passTimeout  = 10 * time.Minute
)

// verify lets fio judge a disk of its own, behind a QEMU that waits for its server, until
// the function that it returns is called.
func (r *runner) verify() (end func() error, err error) {
	d, err := r.fleet.CLI.Create("verified", fmt.Sprint(verifiedSize))
	if err != nil {
		return nil, err
	}
	front, err := load.NewFront(context.Background(), fmt.Sprintf("nbd+unix:///%s?socket=%s", d.DiskID, r.fleet.Socket(r.fleet.Blockds()[0])), passTimeout)
	if err != nil {
		return nil, err
	}
	v := &load.Verifier{URI: front.URI, Size: verifiedSize, PassBytes: verifiedPass, Rate: verifiedRate, Timeout: passTimeout}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		r.report.Passes, err = v.Run(stop)
		done <- err
	}()
	return func() error {
		close(stop)
		err := <-done
		if err != nil {
			r.report.Verified = err.Error()
		}
		r.say("fio verified what it wrote in %d passes", r.report.Passes)
		return front.Close()
	}, nil
}

// workers are the clients. Their homes are spread over the endpoints, so that owners and
// proxies are asked alike. Some give a silent daemon up soon, some wait for it to
// come back; some shut their older sessions out.
func (r *runner) workers() (out []*load.Worker) {
	type shape struct {
		disk, home int
		patience   time.Duration
		attachment bool
	}
	for i, s := range []shape{
		{0, 0, 2 * time.Second, false}, {0, 1, 5 * time.Second, true}, {0, 2, 20 * time.Second, true}, {0, 0, 20 * time.Second, false},
		{1, 1, 2 * time.Second, true}, {1, 2, 20 * time.Second, false},
	} {
		w := r.worker(s.disk, s.home, s.patience)
		w.Lanes, w.Pace = 2, 5*time.Millisecond
		w.Next = load.Registers(regions, blocks, blocks, quarters)
		if s.attachment {
			w.Attachment = fmt.Sprintf("client-%d", i)
		}
		out = append(out, w)
	}
	for d := range r.disks {
		w := r.worker(d, d, 3*time.Second)
		w.Lanes, w.Pace = 1, 25*time.Millisecond
		w.Next = load.Filler(regions, stretch, 32)
		out = append(out, w)
	}
	return out
}

func (r *runner) worker(disk, home int, patience time.Duration) *load.Worker {
	n := r.client()
	return &load.Worker{Number: n, Disk: r.disks[disk], Home: home, Patience: patience, DialTimeout: 2 * time.Second, Elsewhere: 0.5,
		Rand: rand.New(rand.NewPCG(r.o.Seed, uint64(n)))}
}

// client is a number that no other client has.
func (r *runner) client() int {
	r.clients++
	return r.clients
}

// faults carries out the plan until the time is up.
func (r *runner) faults() error {
	if err := r.recovered(time.Now()); err != nil {
		return fmt.Errorf("clients do not get through before any fault: %w", err)
	}
	for n := 1; n <= len(r.o.Kinds) || time.Since(r.start) < r.o.For; n++ { // each kind that was asked for, however long the start took
		f := r.plan.Next()
		row := &Row{Number: n, Fault: f}
		r.report.Rows = append(r.report.Rows, row)
		if err := r.fault(f, row); err != nil {
			return fmt.Errorf("fault %d (%s at %s): %w", n, f, row.Target, err)
		}
		r.say("fault %d: %s: longest silence %s, well again %s after it ended", n, row.what(), row.gap(), row.Recovery.Round(10*time.Millisecond))
	}
	return nil
}

// recovered waits until every disk answers a request made after now and the cluster is well.
func (r *runner) recovered(since time.Time) error {
	timeout := time.NewTimer(recoverTimeout)
	defer timeout.Stop()
	for _, d := range r.disks {
		select {
		case <-d.First():
		case <-timeout.C:
			return fmt.Errorf("disk %s answers nobody %s after %s", d.Name, recoverTimeout, time.Since(since))
		}
	}
	return r.fleet.CLI.WaitUp(recoverTimeout)
}

// last reads everything back through every daemon, kills everything, and reads it once more.
func (r *runner) last() error {
	if err := r.readBack("after the last fault"); err != nil {
		return err
	}
	for _, id := range append(r.fleet.Blockds(), r.fleet.Metads()...) {
		if err := r.fleet.Kill(id); err != nil {
			return err
		}
	}
	if err := r.fleet.StartAll(); err != nil {
		return err
	}
	if err := r.fleet.CLI.WaitUp(readyTimeout); err != nil {
		return fmt.Errorf("after everything was killed: %w", err)
	}
	return r.readBack("after everything was killed and started again")
}

func (r *runner) readBack(when string) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	for _, d := range r.disks {
		for e := range d.URIs {
			client := r.client()
			if err := load.Retry(ctx, func(ctx context.Context) error { return d.ReadAll(ctx, client, e) }); err != nil {
				return fmt.Errorf("%s: %w", when, err)
			}
		}
	}
	r.say("read everything back %s", when)
	return nil
}

// judge checks the histories.
func (r *runner) judge() {
	began := time.Now()
	for _, d := range r.disks {
		v := history.Check(d.Log.Ops(), judgeTimeout)
		r.report.Disks = append(r.report.Disks, DiskReport{Name: d.Name, Verdict: v, Breaches: d.Log.Breaches(), Summary: d.Summary(), Refusals: d.Refusals()})
		r.say("disk %s: %s; %s", d.Name, v, d.Summary())
	}
	r.say("judged in %s", time.Since(began).Round(time.Millisecond))
}

// save keeps what is needed to find out what happened.
func (r *runner) save() error {
	dir := filepath.Join(r.o.SaveDir, fmt.Sprintf("seed-%d", r.o.Seed))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save failure: %w", err)
	}
	var all error
	for i, d := range r.disks {
		all = errors.Join(all, saveHistory(filepath.Join(dir, d.Name+".history.json"), d.Log.Ops()))
		if i < len(r.report.Disks) {
			all = errors.Join(all, r.report.Disks[i].visualize(dir))
		}
	}
	all = errors.Join(all, os.WriteFile(filepath.Join(dir, "report.md"), []byte(r.report.Markdown()), 0o644), os.Rename(filepath.Join(r.fleet.Dir, "log"), filepath.Join(dir, "log")))
	r.say("the histories, the logs and a report are in %s; the cluster's data in %s", dir, r.fleet.Dir)
	return all
}

func saveHistory(path string, ops []history.Op) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("save history: %w", err)
	}
	return errors.Join(history.Save(f, ops), f.Close())
}
