package main

import (
	"fmt"
	"slices"
	"strings"
)

// mark is a figure to reach.
type mark struct {
	what     string
	want     float64
	atMost   bool // else at least
	unit     string
	measured func(r *report) (float64, bool)
}

const (
	us  = "µs"
	ios = "IOPS"
	mbs = "MB/s"
	x   = "×"
)

// marks are checked on medians over the rounds; ratios are taken in each round first.
var marks = []mark{
	{"CPU of all servers per 4 KiB write at q32", 70, true, us, cpu("rwrite 4k q32")},
	{"the same in steady state, packing included", 70, true, us, steadyCPU},
	{"CPU per cold 4 KiB read at q32", 20, true, us, cpu("rread 4k q32")},
	{"CPU per cached 4 KiB read at q32", 14, true, us, cpu("rread 4k q32 cached")},
	{"rwrite 4k q32 to nbdkit memory", 0.12, false, x, ratio("rwrite 4k q32", "nbdkit memory")},
	{"rread 4k q32 to nbdkit memory", 0.42, false, x, ratio("rread 4k q32", "nbdkit memory")},
	{"write 1M q8 to raw file", 0.45, false, x, ratio("write 1M q8", "raw file")},
	{"read 1M q8 to raw file", 0.85, false, x, ratio("read 1M q8", "raw file")},
	{"rw70/30 16k q16 to nbdkit memory", 0.22, false, x, ratio("rw70/30 16k q16", "nbdkit memory")},
	{"rwrite 4k q32, 1 ms added to fdatasync", 12000, false, ios, absolute("sync1ms", "rwrite 4k q32")},
	{"growth of what is unpacked in steady writes, part of its limit", 0.05, true, x, steadyGrowth},
	{"write 1M q8", 700, false, mbs, absolute("matrix", "write 1M q8")},
	{"read 1M q8", 1000, false, mbs, absolute("matrix", "read 1M q8")},
	{"rread 4k q1", 15000, false, ios, absolute("matrix", "rread 4k q1")},
	{"rread 4k q32", 60000, false, ios, absolute("matrix", "rread 4k q32")},
	{"rwrite 4k q1", 5000, false, ios, absolute("matrix", "rwrite 4k q1")},
	{"rwrite+flush q1", 5000, false, ios, absolute("matrix", "rwrite+flush q1")},
	{"rwrite 4k q32", 20000, false, ios, absolute("matrix", "rwrite 4k q32")},
	{"rw70/30 16k q16", 20000, false, ios, absolute("matrix", "rw70/30 16k q16")},
}

const ashlar = "ashlar 4+2"

// speed is the figure people compare for this job.
func (r *result) speed() float64 {
	if isLarge(r.Job) {
		return r.MBps
	}
	return r.IOPS
}

func isLarge(job string) bool { return strings.Contains(job, " 1M ") }

// of gives f for each round of a job; rounds that are missing are left out.
func (r *report) of(phase, target, job string, f func(*result) float64) (v []float64) {
	for i := range r.Results {
		if x := &r.Results[i]; x.Phase == phase && x.Target == target && x.Job == job {
			v = append(v, f(x))
		}
	}
	return v
}

func median(v []float64) (float64, bool) {
	if len(v) == 0 {
		return 0, false
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2, true
}

func cpu(job string) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		return median(r.of("matrix", ashlar, job, func(x *result) float64 { return x.ServerCPU }))
	}
}

func absolute(phase, job string) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) { return median(r.of(phase, ashlar, job, (*result).speed)) }
}

func ratio(job, peer string) func(*report) (float64, bool) {
	return func(r *report) (float64, bool) {
		a, p := r.of("matrix", ashlar, job, (*result).speed), r.of("matrix", peer, job, (*result).speed)
		if len(a) != len(p) {
			return 0, false
		}
		for i := range a {
			a[i] /= p[i]
		}
		return median(a)
	}
}

func steadyCPU(r *report) (float64, bool) {
	if r.Steady == nil {
		return 0, false
	}
	return r.Steady.ServerCPU, true
}

func steadyGrowth(r *report) (float64, bool) {
	if r.Steady == nil || r.Steady.LimitMiB == 0 {
		return 0, false
	}
	return max(0, r.Steady.EndMiB-r.Steady.StartMiB) / r.Steady.LimitMiB, true
}

// row is the mark's line in the table.
func (m mark) row(r *report) string {
	relation := "≥"
	if m.atMost {
		relation = "≤"
	}
	want := fmt.Sprintf("%s %s %s", relation, number(m.want), m.unit)
	v, ok := m.measured(r)
	if !ok {
		return fmt.Sprintf("| %s | %s | – | not measured |", m.what, want)
	}
	verdict := "**missed**"
	if m.atMost && v <= m.want || !m.atMost && v >= m.want {
		verdict = "met"
	}
	return fmt.Sprintf("| %s | %s | %s %s | %s |", m.what, want, number(v), m.unit, verdict)
}

// number has about three digits that count.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
