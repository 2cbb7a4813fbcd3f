package reader

import (
	"sync"
	"sync/atomic"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Cache holds blocks by location in a fixed number of slots. A location never
// changes its bytes, so nothing is ever invalidated. Eviction is CLOCK: a slot
// that was used since the hand last passed is spared once. A nil Cache holds nothing.
// Safe for concurrent use.
type Cache struct {
	shards [cacheShards]cacheShard
	hits   atomic.Uint64
	misses atomic.Uint64
	slots  int
}

const cacheShards = 16

// seenPerSlot is how many missed blocks are remembered for each slot.
const seenPerSlot = 4

type cacheShard struct {
	mu    sync.Mutex
	at    map[id.Location]int32
	keys  []id.Location
	used  []bool
	bytes []byte
	hand  int
	// seen remembers what was missed lately, by a hash: only a block that is asked for
	// again is worth a copy and the slot of another.
	seen []uint32
}

// NewCache makes a cache of at most size bytes of blocks; nil if that is no block at all.
func NewCache(size int64) *Cache {
	per := int(size / storeproto.BlockSize / cacheShards)
	if per < 1 {
		return nil
	}
	c := &Cache{slots: per * cacheShards}
	for i := range c.shards {
		s := &c.shards[i]
		s.at = make(map[id.Location]int32, per)
		s.keys = make([]id.Location, per)
		s.used = make([]bool, per)
		s.bytes = make([]byte, per*storeproto.BlockSize)
		s.seen = make([]uint32, seenPerSlot*per)
	}
	return c
}

func (c *Cache) shard(l id.Location) *cacheShard {
	return &c.shards[uint64(l)*0x9E3779B97F4A7C15>>60]
}

// Get copies the block at l into dst; false if it is not there.
func (c *Cache) Get(l id.Location, dst []byte) bool {
	if c == nil {
		return false
	}
	s := c.shard(l)
	s.mu.Lock()
	i, ok := s.at[l]
	if ok {
		s.used[i] = true
		copy(dst, s.bytes[int(i)*storeproto.BlockSize:][:storeproto.BlockSize])
	}
	s.mu.Unlock()
	if ok {
		c.hits.Add(1)
	} else {
		c.misses.Add(1)
	}
	return ok
}

// Put keeps a copy of the block at l, if it was put before not long ago.
func (c *Cache) Put(l id.Location, block []byte) {
	if c == nil {
		return
	}
	s := c.shard(l)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.at[l]; ok || !s.again(l) {
		return
	}
	for s.used[s.hand] {
		s.used[s.hand] = false
		s.hand = (s.hand + 1) % len(s.keys)
	}
	i := s.hand
	s.hand = (s.hand + 1) % len(s.keys)
	if old := s.keys[i]; old != 0 {
		delete(s.at, old)
	}
	s.keys[i] = l
	s.at[l] = int32(i)
	copy(s.bytes[i*storeproto.BlockSize:], block[:storeproto.BlockSize])
}

// again tells whether l is remembered as missed, and remembers it.
func (s *cacheShard) again(l id.Location) bool {
	h := uint64(l) * 0xD6E8FEB86659FD93
	i := (h >> 32) % uint64(len(s.seen))
	mark := uint32(h) | 1
	if s.seen[i] == mark {
		return true
	}
	s.seen[i] = mark
	return false
}

// CacheStats are a cache's size in bytes and its hits and misses since the start.
type CacheStats struct {
	LimitBytes, UsedBytes uint64
	Hits, Misses          uint64
}

// Stats gives the present figures.
func (c *Cache) Stats() CacheStats {
	if c == nil {
		return CacheStats{}
	}
	st := CacheStats{LimitBytes: uint64(c.slots) * storeproto.BlockSize, Hits: c.hits.Load(), Misses: c.misses.Load()}
	for i := range c.shards {
		c.shards[i].mu.Lock()
		st.UsedBytes += uint64(len(c.shards[i].at)) * storeproto.BlockSize
		c.shards[i].mu.Unlock()
	}
	return st
}
