package server

import (
	"testing"
	"time"
)

// Without this a machine that lost its disks would come back as one of its own earlier lives:
// metad would turn it away, or take it for the owner of disks that it never opened.
func TestReplacedMachineOutranksItsEarlierLives(t *testing.T) {
	bought := time.Unix(1_700_000_000, 0)
	dir := t.TempDir()
	var last uint64
	for i := range 3 {
		l, err := begin(dir, "b1", bought.Add(-time.Duration(i)*time.Hour)) // clocks jump
		if err != nil {
			t.Fatal(err)
		}
		if l.holder.Number <= last {
			t.Errorf("life %d after life %d", l.holder.Number, last)
		}
		last = l.holder.Number
		if _, err := begin(dir, "b1", bought); err == nil {
			t.Error("two lives at once")
		}
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := begin(t.TempDir(), "b1", bought.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	if l.holder.Number <= last {
		t.Errorf("life %d after the disks were lost, %d before", l.holder.Number, last)
	}
}
