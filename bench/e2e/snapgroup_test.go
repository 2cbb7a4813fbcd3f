//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// counters are blocks at the beginning of each disk, which are counted up by writers of their own.
const counters = 48

// countersOf reads all counters of an export.
func countersOf(t *testing.T, uri string) (out [counters]uint64) {
	t.Helper()
	c, err := nbd.Dial(t.Context(), uri, nbd.ClientOptions{})
	must(t, err)
	b := make([]byte, counters*4096)
	_, err = c.ReadAt(b, 0)
	must(t, err)
	must(t, c.Close())
	for i := range out {
		out[i] = binary.LittleEndian.Uint64(b[i*4096:])
	}
	return out
}

// counting counts one counter up, on the first disk and then on the second, until stop. It tells how long the longest write took.
func counting(conns []*nbd.Client, i int64, stop *atomic.Bool, total *atomic.Uint64) (longest time.Duration, err error) {
	var b [4096]byte
	for n := uint64(1); !stop.Load(); n++ {
		binary.LittleEndian.PutUint64(b[:], n)
		for _, conn := range conns {
			began := time.Now()
			if _, err := conn.WriteAt(b[:], i*4096); err != nil {
				return longest, err
			}
			longest = max(longest, time.Since(began))
		}
		total.Add(1)
	}
	return longest, nil
}

// Without this a database whose log and data are on two disks could get a backup in which the data
// have what the log does not: each count is written to the second disk only after the first has acknowledged
// it, so in snapshots of one point in time the first is never behind, and never ahead by more than one.
func TestGroupOfSnapshotsIsOnePointInTime(t *testing.T) {
	c := mortal(t)
	names := []string{"grouped-log", "grouped-data"}
	var conns []*nbd.Client
	for i, name := range names {
		disk(t, c, name, "16MiB")
		e := endpoints(t, c, name)
		conn, err := nbd.Dial(t.Context(), e.All[i].Unix, nbd.ClientOptions{}) // opened by two hosts
		must(t, err)
		conns = append(conns, conn)
	}
	if a, b := endpoints(t, c, names[0]).All[0], endpoints(t, c, names[1]).All[0]; !a.Owner || !b.Owner || a.Host == b.Host {
		t.Fatalf("the disks are owned by %s and %s", a.Host, b.Host)
	}
	var stop atomic.Bool
	var count atomic.Uint64
	var writers sync.WaitGroup
	longest := make([]time.Duration, counters)
	for i := range int64(counters) {
		writers.Go(func() {
			var err error
			if longest[i], err = counting(conns, i, &stop, &count); err != nil {
				t.Error(err)
			}
		})
	}
	const groups = 8
	for i := range groups {
		before := count.Load()
		must(t, cluster.Wait("the counts to go on", patience, func() bool { return count.Load() > before+500 }))
		began := time.Now()
		r, err := c.CLI("snapshot", "create", "--disk", names[0], "--disk", names[1], "--name", fmt.Sprint("g", i))
		must(t, err)
		if r.Code != 0 {
			t.Fatalf("group %d: %s", i, r.Stderr)
		}
		t.Logf("group %d after %s", i, time.Since(began).Round(time.Millisecond))
	}
	stop.Store(true)
	writers.Wait()
	for _, conn := range conns {
		must(t, conn.Close())
	}
	slices.Sort(longest)
	t.Logf("%d counts; the longest write of each counter: median %s, longest %s", count.Load(), longest[counters/2], longest[counters-1])
	for i, last, moved := 0, [counters]uint64{}, 0; i < groups; i++ {
		if last, moved = checkGroup(t, c, names, i, last); moved < counters/2 {
			t.Errorf("group %d: %d counters went on since the group before", i, moved)
		}
	}
	for _, name := range names {
		dropSnapshots(t, c, name)
	}
}

// checkGroup holds the counters of a group against each other and against those of the group before, and tells how many went on since.
func checkGroup(t *testing.T, c *cluster.Cluster, names []string, i int, last [counters]uint64) (now [counters]uint64, moved int) {
	t.Helper()
	var at [2][counters]uint64
	for j, name := range names {
		uri := endpoints(t, c, name).Unix
		id := filepath.Base(strings.SplitN(uri, "?", 2)[0])
		at[j] = countersOf(t, exported(uri, id, fmt.Sprint(name, "@g", i)))
	}
	for k := range counters {
		if at[0][k] < at[1][k] || at[0][k] > at[1][k]+1 || at[0][k] < last[k] {
			t.Errorf("group %d: counter %d is %d and %d, in the group before it was %d", i, k, at[0][k], at[1][k], last[k])
		}
		if at[0][k] > last[k] {
			moved++
		}
	}
	return at[0], moved
}
