// Package history records what clients did to a disk and what they saw, and judges it:
// every cell (a block, or a part of one) must have behaved like one register that all
// clients share, zero at first.
//
// A cell's bytes are made from its number and a value that no other write has, so that a
// read tells which write it saw, and shows a torn cell or one from elsewhere at once.
//
// An operation whose outcome nobody knows (the connection broke before the answer) may
// have happened at any time after its call, or never. If a session rule of the server
// bounds that time, Bound says so.
//
// A Log is safe for concurrent use. The judging is porcupine's.
package history
