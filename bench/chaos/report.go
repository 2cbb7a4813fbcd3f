package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"ashlar.dev/bench/chaos/history"
)

// Report is what a run did and found.
type Report struct {
	Seed   uint64
	Rows   []*Row
	Disks  []DiskReport
	Deaths []string // daemons that ended by themselves
	Logs   string   // lines that nobody allowed

	Passes   int    // that fio wrote and verified
	Verified string // what fio found wrong
}

// Row is one fault as it was carried out.
type Row struct {
	Number    int
	Fault     Fault
	Target    string
	At        time.Duration
	Gaps      []time.Duration // for each disk, the longest time in which nobody was answered
	Recovery  time.Duration   // from the end of the fault until all was well
	Witnessed bool            // the target was asked after others had gone on without it
}

func (r *Row) what() string { return fmt.Sprintf("%s (%s)", r.Fault, r.Target) }

func (r *Row) gap() time.Duration {
	if len(r.Gaps) == 0 {
		return 0
	}
	return slices.Max(r.Gaps).Round(10 * time.Millisecond)
}

// DiskReport is the verdict on one disk.
type DiskReport struct {
	Name     string
	Verdict  history.Verdict
	Breaches []string // torn or strange cells
	Summary  string
	Refusals map[string]int
}

// OK tells that nothing was wrong.
func (r *Report) OK() bool { return len(r.Problems()) == 0 }

const breachesShown = 10

// Problems are what was wrong, one a line or paragraph.
func (r *Report) Problems() (out []string) {
	for _, d := range r.Disks {
		for i, b := range d.Breaches {
			if i == breachesShown {
				out = append(out, fmt.Sprintf("disk %s: and %d more", d.Name, len(d.Breaches)-i))
				break
			}
			out = append(out, fmt.Sprintf("disk %s: %s", d.Name, b))
		}
		for i, b := range d.Verdict.Broken {
			if i == breachesShown {
				out = append(out, fmt.Sprintf("disk %s: and %d more cells", d.Name, len(d.Verdict.Broken)-i))
				break
			}
			out = append(out, fmt.Sprintf("disk %s: %s", d.Name, b.Describe(40)))
		}
		for _, c := range d.Verdict.Undecided {
			out = append(out, fmt.Sprintf("disk %s: cell %s could not be judged in time", d.Name, c))
		}
		for text, n := range d.Refusals {
			out = append(out, fmt.Sprintf("disk %s: %d requests were answered with %q: no fault here is one that a client may see", d.Name, n, text))
		}
	}
	out = append(out, r.Deaths...)
	if r.Verified != "" {
		out = append(out, r.Verified)
	}
	if r.Logs != "" {
		out = append(out, r.Logs)
	}
	return out
}

// Markdown is the report as RESULTS.md has it.
func (r *Report) Markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "Seed %d.\n\n| # | at | fault | target | longest silence | well again after | zombie asked |\n|---|---|---|---|---|---|---|\n", r.Seed)
	for _, x := range r.Rows {
		asked := ""
		if x.Witnessed {
			asked = "yes"
		}
		fmt.Fprintf(&s, "| %d | %.0f s | %s | %s | %.2f s | %.2f s | %s |\n", x.Number, x.At.Seconds(), x.Fault, x.Target, x.gap().Seconds(), x.Recovery.Seconds(), asked)
	}
	s.WriteString("\n")
	for _, d := range r.Disks {
		fmt.Fprintf(&s, "- disk %s: %s; %s.\n", d.Name, d.Verdict, d.Summary)
	}
	fmt.Fprintf(&s, "- disk verified: fio wrote and verified it in %d passes.\n", r.Passes)
	s.WriteString("\n" + r.kinds())
	problems := r.Problems()
	if len(problems) > 0 {
		s.WriteString("\nWrong:\n\n```\n" + strings.Join(problems, "\n") + "\n```\n")
	}
	return s.String()
}

// kinds is a table of what was injected, how often, and the longest that clients and the
// cluster took over it.
func (r *Report) kinds() string {
	var s strings.Builder
	s.WriteString("| fault | times | longest silence | longest until well again |\n|---|---|---|---|\n")
	for k := range kinds {
		n, gap, recovery := 0, time.Duration(0), time.Duration(0)
		for _, x := range r.Rows {
			if x.Fault.Kind == k {
				n, gap, recovery = n+1, max(gap, x.gap()), max(recovery, x.Recovery)
			}
		}
		if n > 0 {
			fmt.Fprintf(&s, "| %s | %d | %.2f s | %.2f s |\n", k, n, gap.Seconds(), recovery.Seconds())
		}
	}
	return s.String()
}

// visualize draws the first broken cells as pages for a browser.
func (d DiskReport) visualize(dir string) error {
	var all error
	for i, b := range d.Verdict.Broken {
		if i == breachesShown {
			break
		}
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-cell-%s.html", d.Name, b.Cell)))
		if err != nil {
			return fmt.Errorf("draw cell: %w", err)
		}
		all = errors.Join(all, porcupine.Visualize(history.Model, b.Info, f), f.Close())
	}
	return all
}
