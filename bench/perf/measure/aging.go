package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// agingResult is what a disk that lives for long costs.
type agingResult struct {
	Worn wearResult `json:"worn"`
	Thin wearResult `json:"thin"`
}

// wearResult is what random overwriting cost, cleaning and checkpoints included.
type wearResult struct {
	DiskGiB   float64 `json:"disk_gib"`
	MapMiB    float64 `json:"map_cache_mib"`
	ClientGiB float64 `json:"client_gib"`
	LiveGiB   float64 `json:"live_gib"`
	IOPS      float64 `json:"iops"`
	CPU       float64 `json:"server_cpu_us"`
	// Media are the bytes sent to storage by all stores for each byte the client wrote,
	// until all was packed and quiet; Stored the bytes that stores hold for each live one.
	Media       float64 `json:"media_per_client_byte"`
	StoredEnd   float64 `json:"stored_per_live_byte"`
	StoredWorst float64 `json:"stored_per_live_byte_worst"`
	MemoryMiB   float64 `json:"owner_memory_mib"` // resident, at most
	// What clients waited: before anything was worth cleaning, and all the time after.
	Calm    waits `json:"calm"`
	Cleaned waits `json:"cleaned"`
}

// waits is a job's latency, and what was cleaned and how much was written meanwhile.
type waits struct {
	IOPS       float64 `json:"iops"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
	P999       float64 `json:"p999_us"`
	CleanedMiB float64 `json:"cleaned_mib"`
}

// calmTime is how long the disk is overwritten before the rest: so little is dead after
// it that the cleaner has nothing to do yet.
const calmTime = 20 * time.Second

// waiting runs random writes and tells what they waited for.
func (b *bench) waiting(ctx context.Context, c *cluster, j job, d time.Duration) (waits, *fioOutput, error) {
	cleaned := c.target.metrics()["blockd_volume_cleaned_bytes_total"]
	out, err := b.fio(ctx, c.target, j, d)
	if err != nil {
		return waits{}, nil, err
	}
	r := summarize(out)
	return waits{r.IOPS, r.P50, r.P99, r.P999, (c.target.metrics()["blockd_volume_cleaned_bytes_total"] - cleaned) / (1 << 20)}, out, nil
}

const (
	wornPasses  = 3
	mapCacheMiB = 16
	thinGiB     = 256
	agingSettle = 90 * time.Second
)

// aging writes a disk three times over at random, then far and wide over a thin disk whose
// map is larger than its cache.
func (b *bench) aging(ctx context.Context) error {
	b.report.Plan, b.report.Machine, b.report.Started = b.plan, machine(b.root, b.dir), time.Now()
	a := &agingResult{}
	b.report.Aging = a
	c, err := b.startCluster(ctx)
	if err != nil {
		return err
	}
	empty, err := c.used(ctx)
	if err != nil {
		return err
	}
	say("worn: a disk of %d MiB is filled, then overwritten at random %d times", b.plan.DiskMiB, wornPasses)
	if err := b.fill(ctx, c.target); err != nil {
		return err
	}
	c.quiet(ctx)
	size := float64(b.plan.DiskMiB) / 1024
	a.Worn = wearResult{DiskGiB: size, MapMiB: 256, LiveGiB: size}
	if a.Worn.Calm, _, err = b.waiting(ctx, c, randWrite32, calmTime); err != nil {
		return err
	}
	c.quiet(ctx)
	if err := b.wear(ctx, c, &a.Worn, empty, fmt.Sprintf("--io_size=%dM", wornPasses*b.plan.DiskMiB)); err != nil {
		return err
	}
	if _, err := c.ashlar(ctx, "disk", "delete", diskName, "--force", "--purge"); err != nil {
		return err
	}
	return b.thin(ctx, c, a)
}

// thin writes a large disk here and there; each page of its map has few blocks.
func (b *bench) thin(ctx context.Context, c *cluster, a *agingResult) error {
	say("thin: random writes over %d GiB, with %d MiB for the map", thinGiB, mapCacheMiB)
	c.stop()
	b.plan.MapMiB = mapCacheMiB
	if err := c.writeOverlay(true); err != nil {
		return err
	}
	c.target.engine = nil // no disk yet
	if err := c.start(ctx); err != nil {
		return err
	}
	if err := c.purged(ctx); err != nil {
		return err
	}
	empty, err := c.used(ctx)
	if err != nil {
		return err
	}
	if _, err := c.ashlar(ctx, "disk", "create", diskName, "--size", fmt.Sprintf("%dGiB", thinGiB)); err != nil {
		return err
	}
	if err := c.attach(ctx); err != nil {
		return err
	}
	a.Thin = wearResult{DiskGiB: thinGiB, MapMiB: mapCacheMiB, LiveGiB: float64(b.plan.DiskMiB) / 1024}
	b.plan.DiskMiB = thinGiB * 1024
	return b.wear(ctx, c, &a.Thin, empty, fmt.Sprintf("--io_size=%dM", int(a.Thin.LiveGiB*1024)))
}

// wear runs fio's random writes and counts what they cost, until all is quiet again.
func (b *bench) wear(ctx context.Context, c *cluster, w *wearResult, empty float64, size string) error {
	before := b.snap(c.target)
	done := make(chan error, 1)
	var out *fioOutput
	go func() {
		j := randWrite32
		j.once, j.extra = true, []string{size, "--norandommap", "--randrepeat=0"}
		var err error
		w.Cleaned, out, err = b.waiting(ctx, c, j, 10*time.Minute)
		done <- err
	}()
	look := func() error {
		used, err := c.used(ctx)
		w.StoredEnd = (used - empty) / (w.LiveGiB * (1 << 30))
		w.StoredWorst = max(w.StoredWorst, w.StoredEnd)
		for _, pid := range c.pids() {
			w.MemoryMiB = max(w.MemoryMiB, residentMiB(pid))
		}
		return err
	}
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			running = false
		case <-time.After(2 * time.Second):
		}
		if err := look(); err != nil {
			return err
		}
	}
	c.quiet(ctx)
	if err := look(); err != nil {
		return err
	}
	after := b.snap(c.target)
	side := out.Jobs[0].Write
	w.ClientGiB, w.IOPS = side.Bytes/(1<<30), side.IOPS
	w.CPU = (after.cpu - before.cpu) / side.IOs * 1e6
	w.Media = float64(after.written-before.written) / side.Bytes
	say("  %.0f IOPS, %.1f µs/IO, media %.2f per byte, stored %.2f per live byte (%.2f at worst), %.0f MiB resident at most", w.IOPS, w.CPU, w.Media, w.StoredEnd, w.StoredWorst, w.MemoryMiB)
	return nil
}

// used is what all stores hold, in bytes.
func (c *cluster) used(ctx context.Context) (float64, error) {
	text, err := c.ashlar(ctx, "status")
	var s struct {
		Used float64 `json:"usedBytes"`
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s.Used, err
}

// purged waits until deleted disks have left the stores.
func (c *cluster) purged(ctx context.Context) error {
	var s struct {
		Counts struct {
			Deleting int `json:"disksDeleting"`
		} `json:"counts"`
	}
	err := await(ctx, agingSettle, func() bool {
		text, err := c.ashlar(ctx, "status")
		return err == nil && json.Unmarshal(text, &s) == nil && s.Counts.Deleting == 0
	})
	c.quiet(ctx)
	return err
}

// owner is the blockd that owns the disk, and where it serves it.
func (c *cluster) owner(ctx context.Context) (host, uri string, err error) {
	text, err := c.ashlar(ctx, "disk", "nbd", diskName)
	var e struct {
		All []struct{ Host, Unix string }
	}
	if err == nil {
		err = json.Unmarshal(text, &e)
	}
	if err == nil && len(e.All) == 0 {
		err = fmt.Errorf("nobody serves disk %s", diskName)
	}
	if err != nil {
		return "", "", err
	}
	return e.All[0].Host, e.All[0].Unix, nil
}

// quiet waits until nothing is unpacked and the stores' use stays the same for some
// seconds; what takes longer is counted as it is.
func (c *cluster) quiet(ctx context.Context) {
	last, same := -1.0, 0
	_ = await(ctx, agingSettle, func() bool { // a bound, not a failure
		used, err := c.used(ctx)
		if err != nil || used != last || c.target.metrics()["blockd_volume_unpacked_bytes"] > 0 {
			last, same = used, 0
			return false
		}
		same++
		return same > 40 // looks of 100 ms
	})
}

// residentMiB is a process's memory.
func residentMiB(pid int) float64 {
	kib, _ := strconv.ParseFloat(strings.TrimSuffix(field(fmt.Sprintf("/proc/%d/status", pid), "VmRSS"), " kB"), 64)
	return kib / 1024
}

func (r *report) agingMarkdown() string {
	var w strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	a, m := r.Aging, r.Machine
	p("\n## aging\n")
	p("`make bench BENCH=aging` on %s, commit %s, %.0f s. %d cores of %s, %s, kernel %s.\n", r.Started.UTC().Format("2006-01-02 15:04 UTC"), m.Commit, r.Took, m.Cores, m.CPU, m.Memory, m.Kernel)
	p("Random 4 KiB writes at q32, 4+2, cleaning and checkpoints on. *Media* is what all stores sent to storage for each byte")
	p("the client wrote, until all was packed and quiet; *stored* what they hold for each live byte.\n")
	p("| disk | map cache | written | IOPS | CPU for a write | media (mark 6.5) | stored (mark 2.2) | at worst | memory of a blockd |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
	for _, x := range []wearResult{a.Worn, a.Thin} {
		p("| %.0f GiB | %.0f MiB | %.1f GiB | %.0f | %.0f µs | %.2f | %.2f | %.2f | %.0f MiB |", x.DiskGiB, x.MapMiB, x.ClientGiB, x.IOPS, x.CPU, x.Media, x.StoredEnd, x.StoredWorst, x.MemoryMiB)
	}
	p("\nWhat clients of the first disk waited, µs, in the %.0f s before, in which hardly anything was cleaned, and while it was worn:\n", calmTime.Seconds())
	p("| | cleaned, MiB | IOPS | p50 | p99 | p99.9 |\n|---|--:|--:|--:|--:|--:|")
	for _, x := range []struct {
		what string
		waits
	}{{"nothing to clean", a.Worn.Calm}, {"beside cleaning", a.Worn.Cleaned}} {
		p("| %s | %.0f | %.0f | %.0f | %.0f | %.0f |", x.what, x.CleanedMiB, x.IOPS, x.P50, x.P99, x.P999)
	}
	p("\np99 beside cleaning is %.2f of that without.", a.Worn.Cleaned.P99/a.Worn.Calm.P99)
	return w.String() + "\n"
}
