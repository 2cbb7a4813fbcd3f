// Package cluster runs ashlar dev for tests: the real binaries in a folder of their own,
// the command line with its JSON answers, signals to daemons by their pid files, and a
// reading of every daemon's log at the end, in which no warning may stand that the test
// has not allowed.
//
// A Cluster is used by one test at a time; its methods may be called at once.
package cluster
