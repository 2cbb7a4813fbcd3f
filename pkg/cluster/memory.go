package cluster

// Memory is one bounded use of memory in a process.
type Memory struct {
	Name string
	// Within names another use that has this one's bytes among its own; empty: none.
	Within      string
	Limit, Used uint64 // bytes
}

// MemoryLimit is what the uses may take together, those within others not counted twice.
func MemoryLimit(uses []Memory) (bytes uint64) {
	for _, u := range uses {
		if u.Within == "" {
			bytes += u.Limit
		}
	}
	return bytes
}

// Process is what a daemon says of its memory.
type Process struct {
	Daemon, Node string
	Uses         []Memory
	// HeapLimit is what Go's collector keeps the process below, 0 for none; Heap is what counts against it.
	HeapLimit, Heap uint64
	Resident        uint64
}

// MemoryUsesMax bounds the uses that one process tells of.
const MemoryUsesMax = 64
