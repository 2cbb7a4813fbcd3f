package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ashlar.dev/bench/chaos/load"
	"ashlar.dev/pkg/nbd"
)

// recoveryResult is one death of the owner with a full journal.
type recoveryResult struct {
	UnpackedMiB float64 `json:"unpacked_mib"`
	Open        float64 `json:"open_s"`   // from epoch to serving, as the log says
	Serve       float64 `json:"serve_s"`  // from the start of the next process to the first answer to a write
	Silence     float64 `json:"silent_s"` // from the SIGKILL to it; ashlar dev's pause, 1 s and then twice as long each time, is in it
}

const (
	recoveryRuns = 5
	recoveryFill = 2 * time.Minute
	recoveryFull = 0.95 // of a disk's part of the write buffer
)

// recoveries kill the owner with a full journal and wait for the next answer. Packing is held
// up by blockd's pack_delay, for it keeps up with a client on the same machine otherwise; so
// what one life recovers the next ones do, too.
func (b *bench) recoveries(ctx context.Context) error {
	b.report.Plan, b.report.Machine, b.report.Started = b.plan, machine(b.root, b.dir), time.Now()
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	say("recovery: the owner dies by SIGKILL with a full journal, %d times", recoveryRuns)
	for range recoveryRuns {
		r, err := b.recovery(ctx, c)
		if err != nil {
			return err
		}
		say("  %.0f MiB unpacked: open in %.2f s, an answer %.2f s after the start, silent for %.2f s", r.UnpackedMiB, r.Open, r.Serve, r.Silence)
		b.report.Recovery = append(b.report.Recovery, *r)
	}
	return nil
}

func (b *bench) recovery(ctx context.Context, c *cluster) (*recoveryResult, error) {
	owner, uri, err := c.owner(ctx)
	if err != nil {
		return nil, err
	}
	r := &recoveryResult{}
	if err := b.fillJournal(ctx, c, uri, r); err != nil {
		return nil, err
	}
	pid, err := c.pidOf(owner)
	if err != nil {
		return nil, err
	}
	at := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return nil, fmt.Errorf("kill %s: %w", owner, err)
	}
	started := make(chan time.Time, 1)
	go func() {
		_ = await(ctx, time.Minute, func() bool { p, err := c.pidOf(owner); return err == nil && p != pid })
		started <- time.Now()
	}()
	err = load.Retry(ctx, func(ctx context.Context) error {
		client, err := nbd.Dial(ctx, uri, nbd.ClientOptions{})
		if err != nil {
			return err
		}
		defer client.Hangup()
		_, err = client.WriteAt(make([]byte, 4096), 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.Silence = time.Since(at).Seconds()
	r.Serve = r.Silence - (<-started).Sub(at).Seconds()
	r.Open, err = c.opened(owner)
	return r, err
}

// fillJournal writes what is missing to nearly all that a disk may have unpacked. Not all: who
// waits for room at the limit would wait for packing.
func (b *bench) fillJournal(ctx context.Context, c *cluster, uri string, r *recoveryResult) error {
	look := func() float64 {
		r.UnpackedMiB = c.target.metrics()["blockd_volume_unpacked_bytes"] / (1 << 20)
		return r.UnpackedMiB
	}
	limit := min(float64(b.plan.BufferMiB)/4, 128)
	if missing := int(recoveryFull*limit - look()); missing > 0 {
		c.target.engine = []string{"--ioengine=nbd", "--uri=" + uri}
		j := randWrite32
		j.once = true
		if _, err := b.fio(ctx, c.target, j, recoveryFill, fmt.Sprintf("--io_size=%dM", missing), "--norandommap", "--randrepeat=0"); err != nil {
			return err
		}
	}
	if look() < 0.9*limit {
		return fmt.Errorf("%.0f MiB unpacked of %.0f that may be: packing is not held up", r.UnpackedMiB, limit)
	}
	return nil
}

func (c *cluster) pidOf(daemon string) (int, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "run", daemon+".pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

var openTook = regexp.MustCompile(`msg="disk open".* took=(\S+)`)

// opened is how long the last opening of a disk took at a blockd, as its log says, in seconds.
func (c *cluster) opened(host string) (float64, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "log", host+".log"))
	if err != nil {
		return 0, err
	}
	all := openTook.FindAllStringSubmatch(string(text), -1)
	if len(all) == 0 {
		return 0, fmt.Errorf("%s's log tells of no disk that was opened", host)
	}
	d, err := time.ParseDuration(all[len(all)-1][1])
	return d.Seconds(), err
}

func (r *report) recoveryMarkdown() string {
	var w strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	m := r.Machine
	p("\n## recovery\n")
	p("`make bench BENCH=recovery` on %s, commit %s, %.0f s. %d cores of %s, %s, kernel %s.\n", r.Started.UTC().Format("2006-01-02 15:04 UTC"), m.Commit, r.Took, m.Cores, m.CPU, m.Memory, m.Kernel)
	p("The owner killed by SIGKILL with a full journal: a disk may have %.0f MiB that are not packed, and packing is held up (`volume.pack_delay`). 4+2, random 4 KiB writes at q32 before.\n", min(float64(r.Plan.BufferMiB)/4, 128))
	p("| unpacked | disk open took | start of the process to the first write answered | SIGKILL to that (pause of `ashlar dev` in it: 1 s, then twice as long each time) |\n|--:|--:|--:|--:|")
	var open, serve []float64
	for _, x := range r.Recovery {
		p("| %.0f MiB | %.2f s | %.2f s | %.2f s |", x.UnpackedMiB, x.Open, x.Serve, x.Silence)
		open, serve = append(open, x.Open), append(serve, x.Serve)
	}
	o, _ := median(open)
	s, _ := median(serve)
	verdict := "met"
	if s > 1 {
		verdict = "**missed**"
	}
	p("\nThe disk opens in %.2f s (median; %.2f at most), and a write is answered %.2f s after the process starts (median; %.2f at most; mark 1 s: %s).", o, slices.Max(open), s, slices.Max(serve), verdict)
	return w.String() + "\n"
}
