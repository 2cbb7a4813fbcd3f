package api

import "ashlar.dev/pkg/cluster"

// FromMemory is the uses of a process on the wire.
func FromMemory(uses []cluster.Memory) (out []*MemoryUse) {
	for _, u := range uses {
		out = append(out, &MemoryUse{Name: u.Name, Within: u.Within, LimitBytes: u.Limit, UsedBytes: u.Used})
	}
	return out
}

// FromProcess is what a daemon says of its memory on the wire.
func FromProcess(p *cluster.Process) *ProcessMemory {
	return &ProcessMemory{Daemon: p.Daemon, Node: p.Node, Uses: FromMemory(p.Uses), LimitBytes: cluster.MemoryLimit(p.Uses),
		HeapLimitBytes: p.HeapLimit, HeapBytes: p.Heap, ResidentBytes: p.Resident}
}

// MemoryUses reads what a process told, at most cluster.MemoryUsesMax of its uses.
func MemoryUses(xs []*MemoryUse) (out []cluster.Memory) {
	for _, x := range xs[:min(len(xs), cluster.MemoryUsesMax)] {
		out = append(out, cluster.Memory{Name: memoryName(x.GetName()), Within: memoryName(x.GetWithin()), Limit: x.GetLimitBytes(), Used: x.GetUsedBytes()})
	}
	return out
}

// Value reads what a daemon told of itself; nil gives the zero value.
func (p *ProcessMemory) Value() cluster.Process {
	return cluster.Process{Daemon: memoryName(p.GetDaemon()), Node: memoryName(p.GetNode()), Uses: MemoryUses(p.GetUses()),
		HeapLimit: p.GetHeapLimitBytes(), Heap: p.GetHeapBytes(), Resident: p.GetResidentBytes()}
}

// memoryName keeps as much of a name as is shown.
func memoryName(s string) string { return s[:min(len(s), 64)] }
