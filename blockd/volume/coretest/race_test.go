//go:build race

package coretest

// One goroutine steps the whole world: the race detector finds nothing here that
// a short run does not show.
func init() { shortened = 6 }
