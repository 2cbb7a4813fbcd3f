package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is everything a run showed; it is kept as JSON too.
type report struct {
	Machine  machineFacts     `json:"machine"`
	Plan     plan             `json:"plan"`
	Started  time.Time        `json:"started"`
	Took     float64          `json:"took_s"`
	Results  []result         `json:"results"`
	Steady   *steadyResult    `json:"steady,omitempty"`
	Aging    *agingResult     `json:"aging,omitempty"`
	Map      *mapResult       `json:"map,omitempty"`
	Recovery []recoveryResult `json:"recovery,omitempty"`
	Floor    []floorPiece     `json:"floor,omitempty"`
	Pieces   []piecesResult   `json:"pieces,omitempty"`
}

// write puts the JSON into results/ and replaces this plan's part of RESULTS.md; what
// people wrote around it stays.
func (r *report) write(dir string) error {
	r.Took = time.Since(r.Started).Seconds()
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "results"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "results", r.Plan.Name+".json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	path := filepath.Join(dir, "RESULTS.md")
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	part := r.markdown()
	fmt.Println(part)
	say("written: %s", path)
	return os.WriteFile(path, []byte(replace(string(old), r.Plan.Name, part)), 0o644)
}

// replace puts part between the markers of its name, at the end if there are none.
func replace(page, name, part string) string {
	begin, end := "<!-- "+name+": written by make bench -->\n", "<!-- end of "+name+" -->\n"
	before, rest, found := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		before, after = page, ""
		if before != "" {
			before = strings.TrimRight(before, "\n") + "\n\n"
		}
	}
	return before + begin + part + end + after
}

func (r *report) markdown() string {
	switch {
	case r.Aging != nil:
		return r.agingMarkdown()
	case len(r.Recovery) > 0:
		return r.recoveryMarkdown()
	case r.Floor != nil:
		return r.floorMarkdown()
	case r.Pieces != nil:
		return r.piecesMarkdown()
	case r.Map != nil:
		return r.mapMarkdown()
	}
	var w strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&w, format+"\n", args...) }
	command := "make bench"
	if r.Plan.Name != "full" {
		command += " BENCH=" + r.Plan.Name
	}
	m := r.Machine
	dirty := ""
	if m.Dirty {
		dirty = " with uncommitted changes"
	}
	p("\n## %s\n", r.Plan.Name)
	p("`%s` on %s, commit %s%s, %.0f s: %d round(s), jobs of %s, a disk of %d MiB, all of it written before.\n", command,
		r.Started.UTC().Format("2006-01-02 15:04 UTC"), m.Commit, dirty, r.Took, r.Plan.Rounds, r.Plan.Job, r.Plan.DiskMiB)
	p("%d cores of %s, %s, kernel %s, %s, %s, %s. fio and all servers share the cores and one disk.", m.Cores, m.CPU, m.Memory, m.Kernel, m.Disk, m.Go, m.Fio)
	p("%s\n", r.disturbance())
	p("### Marks\n\n| mark | wanted | measured | |\n|---|--:|--:|---|")
	for _, x := range marks {
		p("%s", x.row(r))
	}
	r.tables(&w)
	r.steadyPart(&w)
	return w.String() + "\n"
}

// disturbance tells how far absolute figures can be trusted.
func (r *report) disturbance() string {
	var load, others []float64
	for _, x := range r.Results {
		load, others = append(load, x.Load), append(others, x.Others)
	}
	l, _ := median(load)
	o, _ := median(others)
	s := fmt.Sprintf("Load average %.1f (median, %.1f at most); other work than servers and fio kept %.1f cores busy (median).", l, slices.Max(load), o)
	if o > 0.5 {
		s += " The machine was disturbed: absolute figures are too low, ratios and CPU for each I/O hold better."
	}
	return s
}

func (r *report) tables(w *strings.Builder) {
	r.table(w, "matrix", "Throughput: MB/s for 1M, IOPS for the rest", func(x *result) float64 { return x.speed() }, false)
	r.table(w, "matrix", "Processor time of all server processes for each I/O, µs", func(x *result) float64 { return x.ServerCPU }, false)
	r.table(w, "matrix", "Latency p50, µs (writes in the mix)", func(x *result) float64 { return x.P50 }, false)
	r.table(w, "matrix", "Latency p99, µs", func(x *result) float64 { return x.P99 }, false)
	r.table(w, "matrix", "Latency p99.9, µs", func(x *result) float64 { return x.P999 }, false)
	r.table(w, "matrix", "Bytes that the servers sent to storage for each byte written", func(x *result) float64 { return x.Written }, true)
	r.table(w, "matrix", "Flushes that reached the disk for each write (the whole machine's)", func(x *result) float64 { return x.Flushes }, true)
	r.table(w, "matrix", "Other work, cores", func(x *result) float64 { return x.Others }, false)
	r.ashlarOnly(w)
	r.table(w, "ceilings", "Ceilings: MB/s for 1M, IOPS for the rest (append: each of 3 logs on its own, all together)", func(x *result) float64 { return x.speed() }, false)
	r.table(w, "ceilings", "Ceilings: processor time of the server for each I/O, µs", func(x *result) float64 { return x.ServerCPU }, false)
	r.table(w, "transports", "Ways from client to disk: MB/s", func(x *result) float64 { return x.MBps }, false)
	r.table(w, "transports", "The same: processor time of all servers for each MiB, µs", func(x *result) float64 { return x.ServerCPU }, false)
	r.table(w, "plain", "With and without TLS between the daemons: MB/s for 1M, IOPS for the rest", func(x *result) float64 { return x.speed() }, false)
	r.table(w, "plain", "The same: processor time of all servers for each I/O, µs", func(x *result) float64 { return x.ServerCPU }, false)
	r.table(w, "sync1ms", "1 ms added to each fdatasync: IOPS", func(x *result) float64 { return x.IOPS }, false)
	r.table(w, "sync1ms", "The same: p50, µs", func(x *result) float64 { return x.P50 }, false)
	r.table(w, "sync1ms", "The same: fdatasyncs of all stores for each write", func(x *result) float64 { return x.StoreSyncs }, true)
}

// table has a row for each target and a column for each job, both as they came.
func (r *report) table(w *strings.Builder, phase, title string, f func(*result) float64, writesOnly bool) {
	var targets, columns []string
	for _, x := range r.Results {
		if x.Phase != phase || writesOnly && strings.Contains(x.Job, "read") {
			continue
		}
		if !slices.Contains(targets, x.Target) {
			targets = append(targets, x.Target)
		}
		if !slices.Contains(columns, x.Job) {
			columns = append(columns, x.Job)
		}
	}
	fmt.Fprintf(w, "\n### %s\n\n| target | %s |\n|---|%s\n", title, strings.Join(columns, " | "), strings.Repeat("--:|", len(columns)))
	for _, t := range targets {
		fmt.Fprintf(w, "| %s |", t)
		for _, c := range columns {
			if v, ok := median(r.of(phase, t, c, f)); ok {
				fmt.Fprintf(w, " %s |", number(v))
			} else {
				fmt.Fprintf(w, " – |")
			}
		}
		fmt.Fprintln(w)
	}
}

// ashlarOnly has what only our own counters tell.
func (r *report) ashlarOnly(w *strings.Builder) {
	fmt.Fprintf(w, "\n### Ashlar's own counters\n\nBlock caches: %d MiB in each blockd (%.1f %% of the disk; one blockd reads for it).\n\n"+
		"| job | block reads found in cache | unpacked before, MiB | fdatasyncs of all stores for each write |\n|---|--:|--:|--:|\n",
		r.Plan.CacheMiB, 100*float64(r.Plan.CacheMiB)/float64(r.Plan.DiskMiB))
	seen := make(map[string]bool)
	for _, x := range r.Results {
		if x.Phase != "matrix" || x.Target != ashlar || seen[x.Job] {
			continue
		}
		seen[x.Job] = true
		get := func(f func(*result) float64) float64 { v, _ := median(r.of("matrix", ashlar, x.Job, f)); return v }
		fmt.Fprintf(w, "| %s | %.1f %% | %s | %s |\n", x.Job, 100*get(func(x *result) float64 { return x.CacheHits }),
			number(get(func(x *result) float64 { return x.UnpackedMiB })), number(get(func(x *result) float64 { return x.StoreSyncs })))
	}
}

func (r *report) steadyPart(w *strings.Builder) {
	s := r.Steady
	if s == nil {
		return
	}
	fmt.Fprintf(w, "\n### Steady state\n\nRandom 4 KiB writes at q32. The disk's part of the write buffer, %.0f MiB: %s, after %.0f s. Then for %.0f s: %s IOPS, %s µs of all servers for each write, "+
		"%s bytes to storage for each byte written.\nUnpacked: %.0f MiB in the first fifth of that time, %.0f MiB in the last.\n",
		s.LimitMiB, s.Reached, s.FillSeconds, s.Seconds, number(s.IOPS), number(s.ServerCPU), number(s.Written), s.StartMiB, s.EndMiB)
	fmt.Fprintf(w, "\n| | %s |\n|---|%s\n| unpacked MiB | %s |\n| IOPS | %s |\n", everyNth(indices(len(s.Unpacked)), "s"), strings.Repeat("--:|", len(strings.Split(everyNth(s.Unpacked, ""), "|"))),
		everyNth(s.Unpacked, ""), everyNth(s.PerSecond[:min(len(s.PerSecond), len(s.Unpacked))], ""))
}

func indices(n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = float64(i + 1)
	}
	return v
}

// everyNth thins a series to about a dozen cells.
func everyNth(v []float64, unit string) string {
	var cells []string
	step := max(1, len(v)/12)
	for i := 0; i < len(v); i += step {
		cells = append(cells, fmt.Sprintf("%.0f%s", v[i], unit))
	}
	return strings.Join(cells, " | ")
}
