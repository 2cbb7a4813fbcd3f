// Package reader reads slots of segments from the stores of their placement
// group: from the block cache, from the data shard, or, when that store is down,
// slow or wrong, rebuilt from k others. It checks every block again that a store
// has checked, and never gives bytes that fail.
//
// It knows nothing of volumes, maps or memory: a caller says where a run of slots
// lies and gets its bytes, or an error. Of a segment of which the caller does not know how
// it is kept, because it is an ancestor's of its volume, the reader asks the headers.
package reader
