// Command measure runs one fio matrix against a disk of this tree and against other
// servers on the same machine in the same minutes, and writes what it saw to
// bench/perf/RESULTS.md and bench/perf/results. It is started by bench/perf/run.
//
// Absolute figures of a shared machine say little; what counts is the ratio to a peer
// measured moments before or after, and the processor time of all server processes for
// each I/O. So every job runs against every target in turn, round after round, and the
// marks are checked on medians over the rounds.
package main
