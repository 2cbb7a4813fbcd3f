package core

import (
	"slices"

	"ashlar.dev/pkg/block"
)

// extentSet is a set of blocks as sorted, disjoint, non-adjacent runs.
type extentSet struct {
	runs []run
}

// run is [start, end).
type run struct{ start, end block.LBA }

// add puts the blocks of [start, end) into the set.
func (s *extentSet) add(start, end block.LBA) {
	if start >= end {
		return
	}
	// i: the first run that touches or follows; j: the first one beyond.
	i := s.search(start)
	if i > 0 && s.runs[i-1].end == start {
		i--
	}
	j := i
	for j < len(s.runs) && s.runs[j].start <= end {
		start = min(start, s.runs[j].start)
		end = max(end, s.runs[j].end)
		j++
	}
	s.runs = slices.Replace(s.runs, i, j, run{start, end})
}

// contains tells whether l is in the set.
func (s *extentSet) contains(l block.LBA) bool {
	i := s.search(l)
	return i < len(s.runs) && s.runs[i].start <= l
}

// search gives the index of the first run that ends after l.
func (s *extentSet) search(l block.LBA) int {
	lo, hi := 0, len(s.runs)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s.runs[mid].end > l {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}
