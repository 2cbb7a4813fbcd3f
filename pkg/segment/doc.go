// Package segment has the shape of a segment: what its slots hold (Entry), how
// slots are dealt out to data shards (Layout), and the bytes of a shard's header.
//
// It knows nothing of stores, of disks or of codes; those are storeproto's and
// stripe's. Everything is a pure value or function, safe to use from anywhere.
package segment
