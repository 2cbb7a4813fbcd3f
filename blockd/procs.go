package main

import (
	"os"
	"runtime"
)

// leastProcs is how many of Go's processors a blockd has at least, however few cores there are.
//
// A goroutine in a system call keeps its processor until the runtime's monitor thread takes it away, where no other is
// free. As long as it does, it looks again every 20 µs or so. With two, one of them waiting for the disk, that is always: the
// monitors of three blockds used a fifth of what random reads cost. With some to spare there is nothing to take, the
// monitor sleeps, and the kernel shares the cores.
const leastProcs = 4

// spareProcs raises GOMAXPROCS to leastProcs unless whoever started us has chosen.
func spareProcs() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < leastProcs {
		runtime.GOMAXPROCS(leastProcs)
	}
}
