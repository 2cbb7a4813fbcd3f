package stripe

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

var profiles = []Profile{{4, 2}, {2, 1}, {1, 2}, {1, 1}, {8, 3}, {1, 0}}

func code(t testing.TB, p Profile) *Code {
	t.Helper()
	c, err := For(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// encoded gives all shards of size bytes of random data.
func encoded(t testing.TB, c *Code, r *rand.Rand, size int) [][]byte {
	k, m := int(c.p.K), int(c.p.M)
	shards := make([][]byte, k+m)
	for i := range shards {
		shards[i] = random(r, size)
	}
	c.Encode(shards[:k], shards[k:])
	return shards
}

// Without this a segment could be unreadable after the loss of the m stores it promises to survive.
func TestAnyKShardsGiveBackEveryOther(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, p := range profiles {
		c := code(t, p)
		n := int(p.K + p.M)
		size := pieceBytes + BlockSize // more than one piece
		if n > 6 {
			size = BlockSize
		}
		shards := encoded(t, c, r, size+BlockSize)
		for set := range 1 << n {
			var pieces []Piece
			for i := range n {
				if set&(1<<i) != 0 {
					pieces = append(pieces, Piece{Index: uint8(i), Data: shards[i][BlockSize:]})
				}
			}
			if len(pieces) != int(p.K) {
				continue
			}
			r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
			for want := range n {
				if set&(1<<want) != 0 {
					continue
				}
				dst := make([]byte, size)
				if err := c.Rebuild(dst, uint8(want), pieces); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(dst, shards[want][BlockSize:]) {
					t.Fatalf("%s: shard %d from set %b is wrong", p, want, set)
				}
			}
		}
	}
}

// Without this two writings of one segment could be decoded into bytes that nobody wrote.
func TestRebuildRefusesWhatDoesNotBelongTogether(t *testing.T) {
	c := code(t, Profile{2, 1})
	b := make([]byte, BlockSize)
	g1, g2 := id.Generation{Epoch: 1, N: 1}, id.Generation{Epoch: 1, N: 2}
	for name, pieces := range map[string][]Piece{
		"two generations":   {{0, g1, b}, {2, g2, b}},
		"too few":           {{0, g1, b}},
		"one twice":         {{0, g1, b}, {0, g1, b}},
		"the wanted itself": {{0, g1, b}, {1, g1, b}},
		"no such shard":     {{0, g1, b}, {3, g1, b}},
		"unequal lengths":   {{0, g1, b}, {2, g1, b[:512]}},
	} {
		if err := c.Rebuild(make([]byte, BlockSize), 1, pieces); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := For(Profile{0, 2}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("0+2: %v", err)
	}
	if _, err := For(Profile{200, 100}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("200+100: %v", err)
	}
}

// Without this the packer's scattered blocks and the shards that are read back
// would be coded differently, and a derived sum would condemn a good block.
func TestSlotsCodeAndSumAsTheirShards(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	seg := id.MakeSegment(77, 5)
	for _, p := range []Profile{{4, 2}, {2, 1}, {1, 2}, {1, 1}} {
		for _, n := range []int{1, 15, 16, 17, 63, 64, 65, 100, 128, 131} {
			c := code(t, p)
			l := c.Layout(uint16(n))
			size := int(l.Blocks()) * BlockSize
			slots, crcs := make([][]byte, n), make([]uint32, n)
			shards := make([][]byte, p.K+p.M)
			for i := range shards {
				shards[i] = make([]byte, size)
			}
			for s := range slots {
				b := make([]byte, BlockSize)
				if s%5 != 3 {
					b = random(r, BlockSize)
					slots[s] = b
				}
				crcs[s] = codec.CRC(b)
				i, at := l.Place(uint16(s))
				copy(shards[i][int(at)*BlockSize:], b)
			}
			c.Encode(shards[:p.K], shards[p.K:])
			parity := make([][]byte, p.M)
			for i := range parity {
				parity[i] = random(r, size)
			}
			c.EncodeSlots(slots, parity)
			for i := range parity {
				if !bytes.Equal(parity[i], shards[int(p.K)+i]) {
					t.Fatalf("%s, %d slots: parity %d differs", p, n, i)
				}
			}
			derived, direct := make([]uint32, l.Blocks()), make([]uint32, l.Blocks())
			for i := range p.K {
				DataSums(derived, seg, l, i, crcs)
				ShardSums(direct, seg, i, shards[i])
				for b := range derived {
					block := shards[i][b*BlockSize : (b+1)*BlockSize]
					if derived[b] != direct[b] || !CheckBlock(seg, i, uint16(b), derived[b], block) {
						t.Fatalf("%s, %d slots: sum of shard %d block %d differs", p, n, i, b)
					}
					if CheckBlock(seg, i, uint16(b)+1, derived[b], block) || CheckBlock(seg+1, i, uint16(b), derived[b], block) {
						t.Fatalf("a block in the wrong place passes")
					}
				}
			}
		}
	}
}

// Without this every degraded read and every packed segment would feed the collector.
func TestCodingDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	c := code(t, Profile{4, 2})
	shards := encoded(t, c, r, BlockSize)
	pieces := []Piece{{Index: 0, Data: shards[0]}, {Index: 2, Data: shards[2]}, {Index: 3, Data: shards[3]}, {Index: 5, Data: shards[5]}}
	dst := make([]byte, BlockSize)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := For(Profile{4, 2}); err != nil {
			t.Fatal(err)
		}
		if err := c.Rebuild(dst, 1, pieces); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a rebuild allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { c.Encode(shards[:4], shards[4:]) }); n > 1 {
		t.Errorf("an encode allocates %v times", n)
	}
}

func BenchmarkEncodeSlots(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, p := range []Profile{{4, 2}, {2, 1}, {1, 2}} {
		b.Run(p.String(), func(b *testing.B) {
			c := code(b, p)
			slots := make([][]byte, 4096)
			for i := range slots {
				slots[i] = random(r, BlockSize)
			}
			parity := make([][]byte, p.M)
			for i := range parity {
				parity[i] = make([]byte, int(c.Layout(4096).Blocks())*BlockSize)
			}
			b.SetBytes(4096 * BlockSize)
			b.ReportAllocs()
			for b.Loop() {
				c.EncodeSlots(slots, parity)
			}
		})
	}
}

func BenchmarkRebuild(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	c := code(b, Profile{4, 2})
	for _, size := range []int{BlockSize, 256 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			shards := encoded(b, c, r, size)
			pieces := []Piece{{Index: 0, Data: shards[0]}, {Index: 2, Data: shards[2]}, {Index: 3, Data: shards[3]}, {Index: 5, Data: shards[5]}}
			dst := make([]byte, size)
			b.SetBytes(int64(size) * 4)
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Rebuild(dst, 1, pieces); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
