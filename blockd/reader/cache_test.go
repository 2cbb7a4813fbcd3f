package reader

import (
	"bytes"
	"testing"

	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

func block(n int) []byte { return bytes.Repeat([]byte{byte(n)}, storeproto.BlockSize) }

// Without this one long scan would flush every block that is asked for often, or a block
// could come back under another's location.
func TestCacheKeepsWhatIsAskedForAgain(t *testing.T) {
	c := NewCache(64 * storeproto.BlockSize * cacheShards)
	loc := func(n int) id.Location { return id.MakeLocation(id.MakeSegment(id.Sequence(n+1), 1), 7) }
	dst := make([]byte, storeproto.BlockSize)
	c.Put(loc(1), block(1))
	if c.Get(loc(1), dst) {
		t.Error("a block seen once took a slot")
	}
	c.Put(loc(1), block(1))
	if !c.Get(loc(1), dst) || !bytes.Equal(dst, block(1)) {
		t.Error("a block seen twice was not kept")
	}
	for n := range 10_000 { // a scan
		c.Put(loc(100+n), block(n))
		c.Get(loc(1), dst)
	}
	if !c.Get(loc(1), dst) || !bytes.Equal(dst, block(1)) {
		t.Error("a scan flushed a block in use")
	}
	if st := c.Stats(); st.UsedBytes > st.LimitBytes {
		t.Errorf("%d bytes used of %d", st.UsedBytes, st.LimitBytes)
	}
}

// Without this a read could be answered with the bytes of another location.
func TestCacheNeverMixesLocations(t *testing.T) {
	c := NewCache(4 * storeproto.BlockSize * cacheShards)
	dst := make([]byte, storeproto.BlockSize)
	for round := range 4 {
		for n := range 500 {
			l := id.MakeLocation(id.MakeSegment(id.Sequence(n+1), 1), uint16(n))
			if c.Get(l, dst) && !bytes.Equal(dst, block(n)) {
				t.Fatalf("round %d: location %d has another's bytes", round, n)
			}
			c.Put(l, block(n))
			c.Put(l, block(n))
		}
	}
}
