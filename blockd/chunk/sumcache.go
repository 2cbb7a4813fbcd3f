package chunk

import (
	"sync"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/pkg/id"
)

// cachedShard is what a read needs to know; never changed.
type cachedShard struct {
	name   shardName
	volume id.Volume
	place  extent.Place
	sums   []uint32
}

func (c *cachedShard) bytes() int64 { return int64(4*len(c.sums)) + 160 }

// sumCache keeps the shards that were read last, within a limit of bytes.
type sumCache struct {
	mu struct {
		sync.Mutex
		max, bytes int64
		entries    map[shardName]*sumEntry
		// first is the ring's anchor: after it comes what was read last, before it
		// what goes next.
		first sumEntry
	}
}

type sumEntry struct {
	c          *cachedShard
	prev, next *sumEntry
}

func (c *sumCache) init(max int64) {
	c.mu.max = max
	c.mu.entries = make(map[shardName]*sumEntry)
	c.mu.first.prev, c.mu.first.next = &c.mu.first, &c.mu.first
}

func (e *sumEntry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (e *sumEntry) linkAfter(at *sumEntry) {
	e.prev, e.next = at, at.next
	at.next.prev, at.next = e, e
}

func (c *sumCache) get(n shardName) *cachedShard {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.mu.entries[n]
	if e == nil {
		return nil
	}
	e.unlink()
	e.linkAfter(&c.mu.first)
	return e.c
}

// put adds what the index had. It may be deleted from the index by now: the
// caller holds reads.inUse for reading, and a deletion removes it under that lock.
func (c *sumCache) put(s *cachedShard) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.entries[s.name] != nil {
		return
	}
	e := &sumEntry{c: s}
	e.linkAfter(&c.mu.first)
	c.mu.entries[s.name] = e
	c.mu.bytes += s.bytes()
	for c.mu.bytes > c.mu.max && len(c.mu.entries) > 1 {
		c.dropLocked(c.mu.first.prev)
	}
}

func (c *sumCache) dropLocked(e *sumEntry) {
	e.unlink()
	delete(c.mu.entries, e.c.name)
	c.mu.bytes -= e.c.bytes()
}

// remove forgets a shard that is deleted.
func (c *sumCache) remove(n shardName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.mu.entries[n]; e != nil {
		c.dropLocked(e)
	}
}

// usage tells the bytes and the shards in the cache.
func (c *sumCache) usage() (bytes int64, shards int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.bytes, len(c.mu.entries)
}
