package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// load is one fio job on one disk.
type load struct {
	uri, rw, bs string
	depth       int
	time        time.Duration // 0: once over the disk
	size        string
}

// outcome is what a client saw: of its writes if it wrote.
type outcome struct {
	IOPS, MBps    float64
	P50, P99, Max float64 // µs
	Seconds       float64
}

func (l load) run(ctx context.Context) (outcome, error) {
	args := []string{"--name=x", "--ioengine=nbd", "--uri=" + l.uri, "--rw=" + l.rw, "--bs=" + l.bs, fmt.Sprintf("--iodepth=%d", l.depth), "--output-format=json",
		"--randrepeat=0", "--norandommap", "--percentile_list=50:99"}
	if l.size != "" {
		args = append(args, "--size="+l.size)
	}
	if l.time > 0 {
		args = append(args, "--time_based", fmt.Sprintf("--runtime=%dms", l.time.Milliseconds()))
	}
	text, err := exec.CommandContext(ctx, "fio", args...).Output()
	if err != nil {
		return outcome{}, fmt.Errorf("fio %s: %w: %.200s", strings.Join(args, " "), err, text)
	}
	type side struct {
		IOPS    float64 `json:"iops"`
		BW      float64 `json:"bw_bytes"`
		Runtime float64 `json:"runtime"`
		Lat     struct {
			Max        float64            `json:"max"`
			Percentile map[string]float64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var r struct {
		Jobs []struct{ Read, Write side } `json:"jobs"`
	}
	if i := strings.Index(string(text), "{"); i > 0 {
		text = text[i:]
	}
	if err := json.Unmarshal(text, &r); err != nil || len(r.Jobs) != 1 {
		return outcome{}, fmt.Errorf("fio said %.200s: %v", text, err)
	}
	s := r.Jobs[0].Read
	if strings.Contains(l.rw, "write") {
		s = r.Jobs[0].Write
	}
	return outcome{IOPS: s.IOPS, MBps: s.BW / 1e6, P50: s.Lat.Percentile["50.000000"] / 1e3, P99: s.Lat.Percentile["99.000000"] / 1e3,
		Max: s.Lat.Max / 1e3, Seconds: s.Runtime / 1e3}, nil
}

// fill writes a disk in full.
func fill(ctx context.Context, uri string) error {
	_, err := load{uri: uri, rw: "write", bs: "1m", depth: 4}.run(ctx)
	return err
}

// beside runs l while other goes on, and ends that.
func (l load) beside(ctx context.Context, other load) (mine, theirs outcome, err error) {
	type ended struct {
		o   outcome
		err error
	}
	c := make(chan ended, 1)
	other.time = l.time + 2*time.Second
	go func() {
		o, err := other.run(ctx)
		c <- ended{o, err}
	}()
	time.Sleep(time.Second)
	mine, err = l.run(ctx)
	e := <-c
	if err == nil {
		err = e.err
	}
	return mine, e.o, err
}

// median leaves out what was not measured; NaN if nothing was.
func median(v []float64) float64 {
	v = slices.DeleteFunc(slices.Sorted(slices.Values(v)), math.IsNaN)
	if len(v) == 0 {
		return math.NaN()
	}
	return v[len(v)/2]
}

// each takes one figure out of outcomes.
func each(all []outcome, f func(outcome) float64) []float64 {
	var v []float64
	for _, o := range all {
		v = append(v, f(o))
	}
	return v
}

// listed shows single rounds.
func listed(v []float64, format string) string {
	var out []string
	for _, x := range v {
		out = append(out, fmt.Sprintf(format, x))
	}
	return strings.Join(out, ", ")
}
