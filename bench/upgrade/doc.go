// Package upgrade runs daemons of two versions together: those of an earlier commit, built
// here, and those of this tree, while a client writes and verifies. `make upgrade` runs it.
package upgrade
