//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

const pieceSize = 1 << 20

// piece is what a client wrote in place n of a disk; no two are alike.
func piece(n int) []byte {
	b := make([]byte, pieceSize)
	x := uint64(n)*0x9e3779b97f4a7c15 + 1
	for i := 0; i < len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return b
}

// pieces checks that the pieces from one on to another are what was written there.
func pieces(t *testing.T, n *nbd.Client, from, to, step int) {
	t.Helper()
	b := make([]byte, pieceSize)
	for i := from; i < to; i += step {
		if _, err := n.ReadAt(b, int64(i)*pieceSize); err != nil || !bytes.Equal(b, piece(i)) {
			t.Fatalf("piece %d of %d is not what was written: %v", i, to, err)
		}
	}
}

// fillUp writes pieces until there is no room, and says how many were taken.
func fillUp(t *testing.T, n *nbd.Client, from, most int) int {
	t.Helper()
	for i := from; i < most; i++ {
		if _, err := n.WriteAt(piece(i), int64(i)*pieceSize); err != nil {
			if !errors.Is(err, errs.ErrNoSpace) {
				t.Fatalf("piece %d: %v, want no space", i, err)
			}
			return i
		}
	}
	t.Fatalf("%d MiB were taken, more than there is room for", most)
	return 0
}

// isFull tells whether status calls the cluster full, and that it serves all the same.
func isFull(t *testing.T, c *cluster.Cluster) bool {
	t.Helper()
	s, err := c.Status()
	must(t, err)
	var codes []string
	for _, r := range s.Reasons {
		codes = append(codes, r.Code)
	}
	if s.Health == "UNAVAILABLE" || s.Counts.StoresUp != s.Counts.Stores {
		t.Fatalf("a cluster without room: %s %q", s.Health, codes)
	}
	return slices.Contains(codes, "cluster_full")
}

// Without this a full cluster would hang its clients or lose what it took, or stay full
// until somebody starts it again.
func TestFullClusterTellsAndIsEmptied(t *testing.T) {
	c, err := cluster.Start(cluster.Options{Allowed: slices.Concat(cluster.Faults, []cluster.Allowance{
		{Pattern: `level=WARN msg="segment not written, another takes its place".* no space`, Reason: "what is packed waits for room"},
	}), Args: []string{"--metad", "1", "--stores", "1", "--store-size", "512MiB", "--blockd-config", "testdata/calm.yaml"}})
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop(t.Failed())) })
	open := func(name string) *nbd.Client {
		n, err := nbd.Dial(t.Context(), endpoints(t, c, name).Unix, nbd.ClientOptions{})
		must(t, err)
		t.Cleanup(n.Hangup)
		return n
	}
	disk(t, c, "kept", "16MiB")
	disk(t, c, "trimmed", "4GiB")
	_, err = c.Create("deleted", "4GiB")
	must(t, err)
	kept, trimmed, deleted := open("kept"), open("trimmed"), open("deleted")
	for i := range 16 {
		_, err := kept.WriteAt(piece(i), int64(i)*pieceSize)
		must(t, err)
	}
	for i := range 64 {
		_, err := deleted.WriteAt(piece(i), int64(i)*pieceSize)
		must(t, err)
	}
	pids := fmt.Sprint(c.Pid("b1"), c.Pid("b2"), c.Pid("b3"))
	taken := fillUp(t, trimmed, 0, 1<<12)
	t.Logf("%d MiB taken", taken)
	must(t, cluster.Wait("status to say that the cluster is full", patience, func() bool { return isFull(t, c) }))
	s, err := c.Status()
	must(t, err)
	if s.UsedBytes < s.CapacityBytes*17/20 || // the rest is kept for what journals hold
		s.UsedBytes > s.CapacityBytes {
		t.Errorf("full with %d bytes used of %d", s.UsedBytes, s.CapacityBytes)
	}
	pieces(t, kept, 0, 16, 1)
	pieces(t, trimmed, 0, taken, 7)

	again := func(what string, n *nbd.Client, at int) {
		must(t, cluster.Wait("room for writes after "+what, patience, func() bool {
			_, err := n.WriteAt(piece(at), int64(at)*pieceSize)
			if err != nil && !errors.Is(err, errs.ErrNoSpace) {
				t.Fatalf("after %s: %v", what, err)
			}
			return err == nil
		}))
		must(t, cluster.Wait("status to say so", patience, func() bool { return !isFull(t, c) }))
	}
	half := taken / 2
	must(t, trimmed.Trim(0, uint64(half)*pieceSize, 0))
	again("a trim", trimmed, taken)
	taken = fillUp(t, trimmed, taken, 1<<12)
	deleted.Hangup()
	r, err := c.CLI("disk", "delete", "deleted", "--force")
	must(t, err)
	if r.Code != 0 {
		t.Fatalf("delete from a full cluster: %+v", r)
	}
	again("a deletion", trimmed, taken)
	pieces(t, kept, 0, 16, 1)
	pieces(t, trimmed, half, taken+1, 5)
	if now := fmt.Sprint(c.Pid("b1"), c.Pid("b2"), c.Pid("b3")); now != pids {
		t.Errorf("daemons were started again: %s, before %s", now, pids)
	}
}
