package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// piecesResult is what one job cost, sorted by the pieces of an I/O.
type piecesResult struct {
	Job       string             `json:"job"`
	IOPS      float64            `json:"iops"`
	ServerCPU float64            `json:"server_cpu_us"`
	FioCPU    float64            `json:"fio_cpu_us"`
	Pieces    map[string]float64 `json:"pieces_us"`
}

// allPieces runs every job of the matrix on the cluster, and random writes that pay for packing and cleaning, too, with a
// profile of all blockds beside each.
func (b *bench) allPieces(ctx context.Context) error {
	b.report.Plan, b.report.Machine, b.report.Started = b.plan, machine(b.root, b.dir), time.Now()
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	if err := b.fill(ctx, c.target); err != nil {
		return err
	}
	say("pieces: every job for %v, and where the blockds spend their time meanwhile", b.plan.Job)
	for _, j := range jobs {
		b.settle(ctx, c.target, j)
		if err := b.piecesOf(ctx, c, j, j.name); err != nil {
			return err
		}
	}
	if _, err := b.fio(ctx, c.target, randWrite32, b.plan.SteadyFill); err != nil {
		return err
	}
	return b.piecesOf(ctx, c, randWrite32, "rwrite 4k q32 steady")
}

func (b *bench) piecesOf(ctx context.Context, c *cluster, j job, name string) error {
	type profiled struct {
		sum map[string]time.Duration
		err error
	}
	ended := make(chan profiled, 1)
	go func() {
		clock := time.NewTimer(time.Second) // fio connects and lays out its job
		defer clock.Stop()
		select {
		case <-clock.C:
		case <-ctx.Done():
		}
		sum, err := sortedTime(ctx, b.dir, c.debug, b.plan.Job-3*time.Second)
		ended <- profiled{sum, err}
	}()
	monitors := monitorTime(c.pids())
	before := b.snap(c.target)
	out, err := b.fio(ctx, c.target, j, b.plan.Job)
	after := b.snap(c.target)
	monitors = monitorTime(c.pids()) - monitors
	p := <-ended
	if err != nil {
		return err
	}
	if p.err != nil {
		return fmt.Errorf("profile of %s: %w", name, p.err)
	}
	f := out.Jobs[0]
	ios := f.Read.IOs + f.Write.IOs
	x := piecesResult{Job: name, IOPS: f.Read.IOPS + f.Write.IOPS, ServerCPU: (after.cpu - before.cpu) / ios * 1e6,
		FioCPU: (f.User + f.System) / 100 * f.Runtime * 1000 / ios, Pieces: make(map[string]float64)}
	sum := time.Duration(0)
	for _, d := range p.sum {
		sum += d
	}
	watching := monitors.Seconds() / ios * 1e6
	x.Pieces["monitor threads of the runtime"] = watching
	for piece, d := range p.sum {
		x.Pieces[piece] = (x.ServerCPU - watching) * d.Seconds() / sum.Seconds()
	}
	say("  %-22s %9.0f IOPS, %8.1f µs of all servers", x.Job, x.IOPS, x.ServerCPU)
	b.report.Pieces = append(b.report.Pieces, x)
	return nil
}

// monitorTime is the processor time of the threads with which Go's runtime looks after the others of a process, its
// second ones; profiles do not have it.
func monitorTime(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil || len(tasks) < 2 {
			continue
		}
		ids := make([]int, len(tasks))
		for i, t := range tasks {
			ids[i], _ = strconv.Atoi(t.Name())
		}
		slices.Sort(ids)
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, ids[1]))
		if f := strings.Fields(string(text)); len(f) > 0 {
			ns, _ := strconv.ParseInt(f[0], 10, 64)
			sum += time.Duration(ns)
		}
	}
	return sum
}

func (r *report) piecesMarkdown() string {
	var w strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	m := r.Machine
	p("\n## pieces\n")
	p("`make bench BENCH=pieces` on %s, commit %s, %.0f s. %d cores of %s, %s, kernel %s.\n", r.Started.UTC().Format("2006-01-02 15:04 UTC"), m.Commit, r.Took, m.Cores, m.CPU, m.Memory, m.Kernel)
	p("Processor time of all servers for each I/O in µs, sorted by what a profile of the blockds says it was spent on; profiles do not see the threads with which Go's runtime watches the others, so their own clocks are read.\n")
	head, line := "| piece |", "|---|"
	totals, client, rate := "| **all servers** |", "| the client, fio |", "| I/O per second |"
	weight := make(map[string]float64)
	for _, x := range r.Pieces {
		head, line = head+" "+x.Job+" |", line+"--:|"
		totals += fmt.Sprintf(" **%s** |", short(x.ServerCPU))
		client += fmt.Sprintf(" %s |", short(x.FioCPU))
		rate += fmt.Sprintf(" %.0f |", x.IOPS)
		for piece, us := range x.Pieces {
			weight[piece] += us / x.ServerCPU
		}
	}
	p("%s\n%s", head, line)
	for _, piece := range slices.SortedFunc(maps.Keys(weight), func(a, b string) int { return cmp.Compare(weight[b], weight[a]) }) {
		row := "| " + piece + " |"
		for _, x := range r.Pieces {
			row += " " + short(x.Pieces[piece]) + " |"
		}
		p("%s", row)
	}
	p("%s\n%s\n%s", totals, client, rate)
	return w.String() + "\n"
}

// short writes a figure with as many digits as mean something.
func short(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
