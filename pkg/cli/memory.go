package cli

import (
	"fmt"
	"io"

	"ashlar.dev/pkg/api"
)

type memoryView struct {
	Name       string `json:"name"`
	Within     string `json:"within,omitempty"` // another use that has these bytes among its own
	UsedBytes  uint64 `json:"usedBytes"`
	LimitBytes uint64 `json:"limitBytes"`
}

// processView is what a daemon does with memory.
type processView struct {
	Daemon         string       `json:"daemon"`
	Node           string       `json:"node"`
	ResidentBytes  uint64       `json:"residentBytes"`
	HeapBytes      uint64       `json:"heapBytes"`
	HeapLimitBytes uint64       `json:"heapLimitBytes"` // what Go's collector keeps it below; 0: nothing
	LimitBytes     uint64       `json:"limitBytes"`     // of all uses together
	Memory         []memoryView `json:"memory"`
}

func viewProcesses(ps []*api.ProcessMemory) []processView {
	out := []processView{}
	for _, p := range ps {
		v := processView{Daemon: p.Daemon, Node: p.Node, ResidentBytes: p.ResidentBytes, HeapBytes: p.HeapBytes, HeapLimitBytes: p.HeapLimitBytes,
			LimitBytes: p.LimitBytes, Memory: []memoryView{}}
		for _, m := range p.Uses {
			v.Memory = append(v.Memory, memoryView{m.Name, m.Within, m.UsedBytes, m.LimitBytes})
		}
		out = append(out, v)
	}
	return out
}

// printMemory says for each process what it keeps in memory and may: first all together, then each use.
func printMemory(w io.Writer, ps []*api.ProcessMemory) {
	var rows [][]string
	for _, p := range ps {
		used := uint64(0)
		for _, m := range p.Uses {
			if m.Within == "" {
				used += m.UsedBytes
			}
		}
		rows = append(rows, []string{p.Daemon + " " + p.Node, "all uses", size(used), size(p.LimitBytes), percent(used, p.LimitBytes)})
		for _, m := range p.Uses {
			name := "  " + m.Name
			if m.Within != "" {
				name = "    " + m.Name
			}
			rows = append(rows, []string{"", name, size(m.UsedBytes), size(m.LimitBytes), percent(m.UsedBytes, m.LimitBytes)})
		}
		limit, part := "none", ""
		if p.HeapLimitBytes > 0 {
			limit, part = size(p.HeapLimitBytes), percent(p.HeapBytes, p.HeapLimitBytes)
		}
		rows = append(rows, []string{"", "Go's heap", size(p.HeapBytes), limit, part})
	}
	if len(rows) > 0 {
		fmt.Fprintln(w)
		table(w, []string{"PROCESS", "MEMORY FOR", "USED", "LIMIT", ""}, rows)
	}
}
