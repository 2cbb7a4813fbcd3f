// Package blockmap has a volume's two trees: the Map, from LBA to location, and
// the Table, from segment to what is known of it.
//
// Neither does I/O. Pages are 4 KiB, immutable once they have a location, and
// lie in slots of segments; an operation that meets a page that is not in memory
// stops there and reports a Miss; the caller reads that page, checks it, hands it
// to Fill and repeats. A checkpoint is taken by Freeze, which costs O(dirty
// pages) and lets the head go on changing; see Frozen.
//
// A Map or Table is not safe for concurrent use: the volume's core owns it. A
// Budget may be shared by maps under different locks, and the methods of a
// Frozen may run beside those of its Map.
package blockmap
