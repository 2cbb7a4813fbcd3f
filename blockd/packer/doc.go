// Package packer turns the blocks of a segment into k+m shards and puts each on its
// store. It decides nothing: a volume's core says what goes where, and hears when
// all shards are durable, or which stores failed.
//
// A store that does not answer holds a job up for Config.PutTimeout, or until metad
// finds the store down; then the job has failed and its worker goes on. The store
// may still read the blocks: who owns them is told later, by Freed, that it does not.
package packer
