package archive

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// kinds are groups of several kinds of bytes.
func kinds() map[string][]byte {
	const n = GroupSlots * block.Size
	random := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(random)
	var text []byte
	rng := rand.New(rand.NewPCG(1, 2))
	for len(text) < n {
		text = fmt.Appendf(text, "%d.%d %s=%x;", rng.IntN(100), rng.IntN(100), []string{"alpha", "beta", "gamma"}[rng.IntN(3)], rng.IntN(1<<16))
	}
	letters := slices.Clone(random) // nothing repeats, but there are 16 values only
	for i := range letters {
		letters[i] = 'a' + letters[i]%16
	}
	return map[string][]byte{"random": random, "text": text[:n], "letters": letters, "zeros": make([]byte, n),
		"half random": slices.Concat(random[:n/2], bytes.Repeat([]byte("abcdefgh"), n/16)), "few random": slices.Concat(random[:n/8], text[:n*7/8])}
}

// Without this the quick look would leave uncompressed what is worth it: no group may be larger for it by a sixteenth than
// what the better encoder makes of it. And it would not be quick: that one must not be asked for what is random.
func TestDeflateLosesLittle(t *testing.T) {
	for name, plain := range kinds() {
		got, best := deflate([]byte("before"), plain), encoder().EncodeAll(plain, nil)
		if string(got[:6]) != "before" {
			t.Fatal("what was there is gone")
		}
		if got = got[6:]; len(got) > len(best)+len(plain)/16 {
			t.Errorf("%s: %d bytes, and %d would do", name, len(got), len(best))
		}
		back, err := inflate(name, got, len(plain))
		if err != nil || !bytes.Equal(back, plain) {
			t.Errorf("%s came back as other bytes: %v", name, err)
		}
		if random := name == "random" || name == "half random"; promising(quickEncoder().EncodeAll(plain, nil)) && random {
			t.Errorf("%s is coded byte by byte, for nothing", name)
		}
	}
}

// Without this an object that is made in the memory of another would have bytes of that one.
func TestObjectsAreMadeInTheSameMemory(t *testing.T) {
	secret, err := NewSecret(bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Secret{nil, secret} {
		b := NewBuilder("data/x/0", s)
		n := uint64(0)
		for name, plain := range kinds() {
			n++
			plain = plain[:len(plain)-int(n)*block.Size] // the last group is never the same
			slots := make([]Slot, len(plain)/block.Size)
			for i := range slots {
				slots[i] = Slot{Number: uint16(2 * i), Entry: segment.MakeData(block.LBA(i)), Sum: codec.CRC(plain[i*block.Size:][:block.Size])}
			}
			key := fmt.Sprintf("data/x/%d", n)
			b.Begin(key)
			b.Add(id.MakeSegment(id.Sequence(n), 1), slots, plain)
			body, o, parts := b.Finish()
			found, foundParts, err := ParseObject(key, body, s, func(_ *Part, data []byte) error {
				if !bytes.Equal(data, plain) {
					t.Errorf("%s came back as other bytes", name)
				}
				return nil
			})
			if err != nil || found != o || !slices.Equal(foundParts, parts) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}
