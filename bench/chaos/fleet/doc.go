// Package fleet runs a whole cluster with each daemon in a network namespace of its own,
// all on one bridge, so that any two can be cut off from each other while clients still
// reach every daemon through its unix socket. Daemons are killed, paused, cut off and
// started again here and nowhere else: nothing restarts by itself.
//
// It needs root. Namespaces and links carry our process's id in their names; what a
// killed run left behind is swept away by the next.
package fleet
