package stripe

import (
	"bytes"
	"testing"
)

// coefficients are those of FORMAT.md, parity shard by parity shard.
var coefficients = map[Profile][][]byte{
	{4, 2}: {{27, 28, 18, 20}, {28, 27, 20, 18}},
	{2, 1}: {{3, 2}},
	{1, 2}: {{1}, {1}},
	{1, 1}: {{1}},
}

// mul multiplies in GF(2^8) with the polynomial of FORMAT.md, bit by bit.
func mul(a, b byte) (p byte) {
	for ; b != 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		carry := a&0x80 != 0
		if a <<= 1; carry {
			a ^= 0x1d
		}
	}
	return p
}

// Without this a new version of the library could code with another matrix, and
// every degraded read of an older segment would give garbage.
func TestParityIsAsTheFormatSays(t *testing.T) {
	for p, want := range coefficients {
		c := code(t, p)
		data, parity := make([][]byte, p.K), make([][]byte, p.M)
		for i := range data {
			data[i] = make([]byte, 512)
			for b := range data[i] {
				data[i][b] = byte(b*7 + b>>3*i + i*31)
			}
		}
		for j := range parity {
			parity[j] = make([]byte, 512)
		}
		c.Encode(data, parity)
		for j, row := range want {
			if !bytes.Equal(c.parity[j][:p.K], row) {
				t.Errorf("%s: parity %d has coefficients %v, want %v", p, j, c.parity[j][:p.K], row)
			}
			for b := range parity[j] {
				var sum byte
				for i, coefficient := range row {
					sum ^= mul(coefficient, data[i][b])
				}
				if sum != parity[j][b] {
					t.Fatalf("%s: byte %d of parity %d is %d, want %d", p, b, j, parity[j][b], sum)
				}
			}
		}
	}
}
