package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// steadyResult is a minute of random writes after the write buffers were full.
type steadyResult struct {
	FillSeconds float64 `json:"fill_s"`
	Seconds     float64 `json:"s"`
	// Reached tells how the buffers' limit showed.
	Reached  string  `json:"reached"`
	LimitMiB float64 `json:"limit_mib"`
	// Means over the window's first and last fifth.
	StartMiB  float64 `json:"start_mib"`
	EndMiB    float64 `json:"end_mib"`
	IOPS      float64 `json:"iops"`
	ServerCPU float64 `json:"server_cpu_us"`
	Written   float64 `json:"written_per_byte"`
	// Unpacked and PerSecond are samples of the window, one a second.
	Unpacked  []float64 `json:"unpacked_mib"`
	PerSecond []float64 `json:"iops_per_s"`
}

// steady writes at random until the buffers are full, and then for the window.
func (b *bench) steady(ctx context.Context, c *cluster) error {
	say("steady state: random writes beyond full buffers")
	b.settle(ctx, c.target, randWrite32)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	total := b.plan.SteadyFill + b.plan.Steady
	failed := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := b.fio(ctx, c.target, randWrite32, total, "--write_iops_log=steady", "--log_avg_msec=1000")
		failed <- err
	}()
	s := &steadyResult{LimitMiB: min(float64(b.plan.BufferMiB)/4, 128)} // a disk's part of the write buffer
	unpacked := func() float64 { return c.target.metrics()["blockd_volume_unpacked_bytes"] / (1 << 20) }
	var filling []float64
	for s.Reached == "" {
		select {
		case err := <-failed:
			return fmt.Errorf("fio ended early: %w", err)
		case <-time.After(time.Second):
		}
		m := c.target.metrics()
		filling = append(filling, m["blockd_volume_unpacked_bytes"]/(1<<20))
		switch last := filling[len(filling)-1]; {
		case m["blockd_volume_waiting_writes"] > 0:
			s.Reached = "writers waited for room"
		case last >= 0.9*s.LimitMiB:
			s.Reached = "nine tenths of the limit"
		case time.Since(began) >= b.plan.SteadyFill-time.Second:
			s.Reached = "never: packing kept up"
		}
	}
	s.FillSeconds = time.Since(began).Seconds()
	before := b.snap(c.target)
	for time.Since(before.at) < b.plan.Steady-500*time.Millisecond {
		select {
		case err := <-failed:
			return fmt.Errorf("fio ended early: %w", err)
		case <-time.After(time.Second):
			s.Unpacked = append(s.Unpacked, unpacked())
		}
	}
	after := b.snap(c.target)
	s.Seconds = after.at.Sub(before.at).Seconds()
	fifth := max(1, len(s.Unpacked)/5)
	s.StartMiB, s.EndMiB = mean(s.Unpacked[:fifth]), mean(s.Unpacked[len(s.Unpacked)-fifth:])
	if time.Since(began) < total { // fio writes its log at the end
		if err := <-failed; err != nil {
			return err
		}
	}
	if err := s.readLog(filepath.Join(b.dir, "steady_iops.1.log"), s.FillSeconds, s.FillSeconds+s.Seconds); err != nil {
		return err
	}
	ios := s.IOPS * s.Seconds
	s.ServerCPU = (after.cpu - before.cpu) / ios * 1e6
	s.Written = float64(after.written-before.written) / (ios * 4096)
	b.report.Steady = s
	say("  %.0f IOPS for %.0f s, %.1f µs/IO, unpacked %.0f MiB at the start, %.0f MiB at the end (%s)",
		s.IOPS, s.Seconds, s.ServerCPU, s.StartMiB, s.EndMiB, s.Reached)
	return nil
}

// readLog takes the seconds from and to out of fio's log of IOPS.
func (s *steadyResult) readLog(path string, from, to float64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		parts := strings.Split(lines.Text(), ",")
		if len(parts) < 2 {
			continue
		}
		ms, err1 := strconv.ParseFloat(strings.TrimSpace(parts[0]), 64)
		iops, err2 := strconv.ParseFloat(strings.TrimSpace(parts[1]), 64)
		if err1 == nil && err2 == nil && ms/1000 > from && ms/1000 <= to+0.5 {
			s.PerSecond = append(s.PerSecond, iops)
		}
	}
	if len(s.PerSecond) == 0 {
		return fmt.Errorf("%s has nothing between %.0f s and %.0f s", path, from, to)
	}
	s.IOPS = mean(s.PerSecond)
	return nil
}

func mean(v []float64) float64 {
	var sum float64
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
