package main

import (
	"runtime"
	"testing"
)

// Without this the runtime's monitor would look every 20 µs on machines with few cores; who starts us may choose otherwise.
func TestSmallMachinesHaveProcessorsToSpare(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	t.Setenv("GOMAXPROCS", "1")
	if spareProcs(); runtime.GOMAXPROCS(0) != 1 {
		t.Errorf("%d processors, 1 was chosen", runtime.GOMAXPROCS(0))
	}
	t.Setenv("GOMAXPROCS", "")
	if spareProcs(); runtime.GOMAXPROCS(0) != leastProcs {
		t.Errorf("%d processors, want %d", runtime.GOMAXPROCS(0), leastProcs)
	}
	runtime.GOMAXPROCS(leastProcs + 1)
	if spareProcs(); runtime.GOMAXPROCS(0) != leastProcs+1 {
		t.Errorf("%d processors, there were more", runtime.GOMAXPROCS(0))
	}
}
