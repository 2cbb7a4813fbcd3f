// Package chaos tries to make a cluster lie: clients read and write a small set of blocks
// through every daemon at once while daemons are killed, paused past their leases, and cut off from
// each other, and in the end every block must have been one register for all
// of them (package history).
//
// What happens to whom, and for how long, follows from a seed (plan.go). Between two faults
// the cluster gets well again; a fault never takes more than the redundancy covers, save
// where everything is killed at once. run.go carries the plan out.
package chaos
