// Package volume is the shell around a volume's core (package core): it opens a
// volume under an epoch, feeds the core with requests, completions and time, and
// carries its effects out on stores, metad, packer and reader.
//
// Locking: Volume.mu serializes the steps of one volume. Nothing is called with it
// held but the cores. Effects are carried out after unlocking; only the order of
// appends to a store matters, and the send queue keeps it. A completion may come
// inline, from any goroutine, and takes the mutex itself.
package volume
