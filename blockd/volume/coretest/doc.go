// Package coretest drives the volume engine's cores without goroutines, clocks or
// I/O of their own: a World steps them by one seed, through a shell that brings
// completions back in any order, loses answers, fails segments and pages, kills
// engines, lets zombies go on, and compares what clients read with what they wrote.
//
// The journal's stores are real ones in memory (package memstore); segments are
// kept whole, without an erasure code: that has its tests elsewhere. Metad is a
// stand-in with metad's compare-and-sets.
package coretest
