package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// job is one row of fio's options.
type job struct {
	name, rw, bs string
	depth        int
	extra        []string
	sizeMiB      int  // 0: the whole disk
	once         bool // over the size once, not for a time
}

var (
	seqWrite    = job{name: "write 1M q8", rw: "write", bs: "1m", depth: 8}
	seqRead     = job{name: "read 1M q8", rw: "read", bs: "1m", depth: 8}
	randRead32  = job{name: "rread 4k q32", rw: "randread", bs: "4k", depth: 32}
	randWrite1  = job{name: "rwrite 4k q1", rw: "randwrite", bs: "4k", depth: 1}
	randWrite32 = job{name: "rwrite 4k q32", rw: "randwrite", bs: "4k", depth: 32}
	mix         = job{name: "rw70/30 16k q16", rw: "randrw", bs: "16k", depth: 16, extra: []string{"--rwmixread=70"}}
)

// jobs is the matrix. Its order is kept: each state of the disk is the one before it left.
var jobs = []job{
	seqWrite, seqRead,
	{name: "rread 4k q1", rw: "randread", bs: "4k", depth: 1}, randRead32,
	randWrite1, {name: "rwrite+flush q1", rw: "randwrite", bs: "4k", depth: 1, extra: []string{"--fsync=1"}}, randWrite32,
	mix,
}

// scattered reads what the random writes of the matrix left in many pieces.
var scattered = job{name: "read 1M q8 scattered", rw: "read", bs: "1m", depth: 8}

// appends is what storing a write costs a store that does nothing else: three logs, as
// the three stores of an ensemble, each append followed by fdatasync. 128k is a batch of
// 32 writes.
func appends(bs string) job {
	return job{name: "append " + bs + " x3", rw: "write", bs: bs, depth: 1, sizeMiB: 64,
		extra: []string{"--ioengine=psync", "--direct=1", "--fdatasync=1", "--overwrite=1", "--numjobs=3"}}
}

func (j job) reads() bool { return strings.Contains(j.rw, "read") }

// result is what one job on one target showed.
type result struct {
	Phase  string  `json:"phase"`
	Target string  `json:"target"`
	Job    string  `json:"job"`
	Round  int     `json:"round"`
	IOPS   float64 `json:"iops"`
	MBps   float64 `json:"mb_per_s"`
	// Latency in microseconds, of the writes in a mixed job.
	Mean float64 `json:"mean_us"`
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
	// Flush is the time of the flush after a write.
	Flush float64 `json:"flush_us,omitempty"`
	// Processor microseconds for each I/O, of all server processes and of fio.
	ServerCPU float64 `json:"server_cpu_us"`
	FioCPU    float64 `json:"fio_cpu_us"`
	// What the servers sent to storage for each byte written, and the device's flushes for
	// each write; the latter are the whole machine's.
	Written float64 `json:"written_per_byte,omitempty"`
	Flushes float64 `json:"disk_flushes_per_write,omitempty"`
	// StoreSyncs are the fdatasyncs of all stores for each write.
	StoreSyncs float64 `json:"store_syncs_per_write,omitempty"`
	// CacheHits is the share of block reads found in the cache, UnpackedMiB what was still in
	// write buffers when the job began.
	CacheHits   float64 `json:"cache_hits,omitempty"`
	UnpackedMiB float64 `json:"unpacked_mib,omitempty"`
	// Others is how many cores other work kept busy, Load the load average afterwards.
	Others float64 `json:"other_cores"`
	Load   float64 `json:"load"`
}

// fioSide is one direction in fio's JSON.
type fioSide struct {
	IOs     float64 `json:"total_ios"`
	Bytes   float64 `json:"io_bytes"`
	IOPS    float64 `json:"iops"`
	BW      float64 `json:"bw_bytes"`
	Latency struct {
		Mean       float64            `json:"mean"`
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

type fioOutput struct {
	Jobs []struct {
		Error   int     `json:"error"`
		Runtime float64 `json:"job_runtime"`
		User    float64 `json:"usr_cpu"`
		System  float64 `json:"sys_cpu"`
		Read    fioSide `json:"read"`
		Write   fioSide `json:"write"`
		Sync    struct {
			Latency struct {
				Mean float64 `json:"mean"`
			} `json:"lat_ns"`
		} `json:"sync"`
	} `json:"jobs"`
}

// fio runs one job; d is its length unless it goes once over the disk.
func (b *bench) fio(ctx context.Context, t *target, j job, d time.Duration, more ...string) (*fioOutput, error) {
	size := j.sizeMiB
	if size == 0 {
		size = b.plan.DiskMiB
	}
	out := filepath.Join(b.dir, "fio.json")
	args := append([]string{"--name=job"}, t.engine...)
	args = append(args, fmt.Sprintf("--size=%dM", size), "--rw="+j.rw, "--bs="+j.bs, fmt.Sprintf("--iodepth=%d", j.depth),
		"--group_reporting", "--percentile_list=50:99:99.9", "--output-format=json", "--output="+out)
	if !j.once {
		args = append(args, "--time_based", fmt.Sprintf("--runtime=%dms", d.Milliseconds()), "--norandommap", "--randrepeat=0")
	}
	args = append(append(args, j.extra...), more...)
	ctx, cancel := context.WithTimeout(ctx, d*4+3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "fio", args...)
	cmd.Dir = b.dir // it leaves state files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("fio %s on %s: %w: %s", j.name, t.name, err, lastLine(said))
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	var parsed fioOutput
	if err := json.Unmarshal(text, &parsed); err != nil || len(parsed.Jobs) == 0 {
		return nil, fmt.Errorf("fio's report on %s: %w", j.name, err)
	}
	return &parsed, nil
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// run does one job once all is quiet and keeps the result.
func (b *bench) run(ctx context.Context, phase string, t *target, j job, round int, d time.Duration) error {
	r, err := b.one(ctx, phase, t, j, round, d)
	if err != nil {
		return err
	}
	b.report.Results = append(b.report.Results, *r)
	say("  %-16s %-20s %9.0f IOPS %7.0f MB/s  p50 %6.0f p99 %7.0f µs  server %6.1f µs/IO  others %.1f cores, load %.1f",
		t.name, j.name, r.IOPS, r.MBps, r.P50, r.P99, r.ServerCPU, r.Others, r.Load)
	return nil
}

func (b *bench) one(ctx context.Context, phase string, t *target, j job, round int, d time.Duration) (*result, error) {
	b.settle(ctx, t, j)
	before := b.snap(t)
	out, err := b.fio(ctx, t, j, d)
	if err != nil {
		return nil, err
	}
	after := b.snap(t)
	r := summarize(out)
	r.Phase, r.Target, r.Job, r.Round, r.Load = phase, t.name, j.name, round, loadAverage()
	fj := out.Jobs[0]
	ios, writes := fj.Read.IOs+fj.Write.IOs, fj.Write.IOs
	fioSeconds := (fj.User + fj.System) / 100 * fj.Runtime / 1000
	server := after.cpu - before.cpu
	r.ServerCPU, r.FioCPU = server/ios*1e6, fioSeconds/ios*1e6
	if writes > 0 {
		r.Written = float64(after.written-before.written) / fj.Write.Bytes
		r.Flushes = float64(after.flushes-before.flushes) / writes
		r.StoreSyncs = (after.metrics["blockd_store_syncs_total"] - before.metrics["blockd_store_syncs_total"]) / writes
	}
	hits := after.metrics["blockd_cache_hits_total"] - before.metrics["blockd_cache_hits_total"]
	misses := after.metrics["blockd_cache_misses_total"] - before.metrics["blockd_cache_misses_total"]
	if hits+misses > 0 {
		r.CacheHits = hits / (hits + misses)
	}
	r.UnpackedMiB = before.metrics["blockd_volume_unpacked_bytes"] / (1 << 20)
	r.Others = max(0, (after.busy-before.busy-server-fioSeconds)/after.at.Sub(before.at).Seconds())
	return r, nil
}

func summarize(out *fioOutput) *result {
	j := out.Jobs[0]
	src := j.Read
	if j.Write.IOs > 0 {
		src = j.Write
	}
	p := src.Latency.Percentile
	return &result{
		IOPS: j.Read.IOPS + j.Write.IOPS, MBps: (j.Read.BW + j.Write.BW) / 1e6, Mean: src.Latency.Mean / 1e3,
		P50: p["50.000000"] / 1e3, P99: p["99.000000"] / 1e3, P999: p["99.900000"] / 1e3, Flush: j.Sync.Latency.Mean / 1e3,
	}
}

// fill writes the whole disk, so that no job meets a hole.
func (b *bench) fill(ctx context.Context, t *target) error {
	_, err := b.fio(ctx, t, job{name: "fill", rw: "write", bs: "1m", depth: 8, once: true}, 0)
	return err
}

// verify makes sure that the figures are of a disk that gives back what was written.
func (b *bench) verify(ctx context.Context, t *target) error {
	j := job{name: "verify", rw: "randwrite", bs: "4k", depth: 16, once: true, sizeMiB: 32}
	_, err := b.fio(ctx, t, j, 0, "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0")
	return err
}
