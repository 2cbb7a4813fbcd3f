// Package sim is one world of the whole storage cluster under one seed: the decision
// makers of metad, blockd and its stores as they ship, stepped by one goroutine over
// simulated disks, network and clocks, while everything goes wrong that is on the menu.
// Every invariant of the architecture has a checker here, and all of them are on all the
// time. README.md says what is real and what stands in, lists the checkers and the
// faults, and tells how a failing seed is run again.
//
// A World belongs to one goroutine. Nothing outside bench imports this.
package sim
