package block

import (
	"errors"
	"math"
	"testing"
)

// Without this a request at the end of a disk could wrap around and touch its start.
func TestCoverRefusesOverflow(t *testing.T) {
	cases := []struct {
		off  Offset
		n    Bytes
		size Bytes
		want Extent
		bad  bool
	}{
		{0, 1, 4096, Extent{0, 1}, false},
		{4095, 2, 8192, Extent{0, 2}, false},
		{4096, 4096, 8192, Extent{1, 1}, false},
		{8191, 1, 8192, Extent{1, 1}, false},
		{8192, 1, 8192, Extent{}, true},
		{0, 0, 8192, Extent{}, true},
		{math.MaxUint64 - 10, 100, 8192, Extent{}, true},
		{1, math.MaxUint64, 8192, Extent{}, true},
	}
	for _, c := range cases {
		got, err := Cover(c.off, c.n, c.size)
		if c.bad != errors.Is(err, ErrRange) || got != c.want {
			t.Errorf("Cover(%d,%d,%d) = %v, %v", c.off, c.n, c.size, got, err)
		}
	}
}

// Without this writes that touch the same blocks could be taken for strangers.
func TestExtentOverlap(t *testing.T) {
	a := Extent{10, 5}
	for _, c := range []struct {
		b    Extent
		want bool
	}{{Extent{15, 1}, false}, {Extent{14, 1}, true}, {Extent{5, 5}, false}, {Extent{5, 6}, true}, {Extent{0, 100}, true}} {
		if a.Overlaps(c.b) != c.want || c.b.Overlaps(a) != c.want {
			t.Errorf("%v overlaps %v: want %v", a, c.b, c.want)
		}
	}
	if Bytes(4097).Blocks() != 2 || Bytes(0).Blocks() != 0 || LBA(3).Offset() != 12288 {
		t.Error("conversion")
	}
}
