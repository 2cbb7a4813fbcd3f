//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// line is a client of a disk that comes again when its connection ends.
type line struct {
	uri string
	mu  sync.Mutex
	c   *nbd.Client
}

// write writes at once, or again until it is acknowledged.
func (l *line) write(t *testing.T, b []byte, at int64) error {
	var err error
	for began := time.Now(); time.Since(began) < patience; {
		l.mu.Lock()
		if l.c == nil {
			l.c, err = nbd.Dial(t.Context(), l.uri, nbd.ClientOptions{})
		}
		c := l.c
		l.mu.Unlock()
		if c == nil {
			continue
		}
		if _, err = c.WriteAt(b, at); err == nil {
			return nil
		}
		l.mu.Lock()
		if l.c == c {
			l.c.Hangup()
			l.c = nil
		}
		l.mu.Unlock()
	}
	return fmt.Errorf("write to %s: %w", l.uri, err)
}

// grouping takes one group of snapshots after the other until it is told to stop.
type grouping struct {
	stop atomic.Bool
	done sync.WaitGroup
	next int // name
	made atomic.Int64
	mu   sync.Mutex
	all  []int // that were answered well
}

func (g *grouping) run(c *cluster.Cluster, names []string) {
	g.stop.Store(false)
	g.done.Go(func() {
		for ; !g.stop.Load(); g.next++ {
			r, err := c.CLI("snapshot", "create", "--disk", names[0], "--disk", names[1], "--name", fmt.Sprint("g", g.next))
			if err == nil && r.Code == 0 {
				g.mu.Lock()
				g.all = append(g.all, g.next)
				g.mu.Unlock()
				g.made.Add(1)
			}
		}
	})
}

// more waits for some more groups.
func (g *grouping) more(t *testing.T, n int64) {
	t.Helper()
	want := g.made.Load() + n
	must(t, cluster.Wait("groups of snapshots", patience, func() bool { return g.made.Load() >= want }))
}

// Without this the death of an owner whose mark has its place, and is on no store yet, could leave a group in which the second disk has what was
// written because of a write that the first one lacks: one owner after the other is killed while group follows group, and each that there is then is of one point in
// time, and of both disks.
func TestGroupsBesideKilledOwners(t *testing.T) {
	c := mortal(t)
	names := []string{"killed-log", "killed-data"}
	var lines []*line
	var hosts []string
	for _, name := range names {
		disk(t, c, name, "16MiB")
		e := endpoints(t, c, name)
		slices.SortFunc(e.All, func(x, y cluster.Endpoint) int { return int(x.Host[1]) - int(y.Host[1]) })
		lines = append(lines, &line{uri: e.All[2].Unix})
		hosts = []string{e.All[0].Host, e.All[1].Host}
	}
	var stop atomic.Bool
	var count atomic.Uint64
	var writers sync.WaitGroup
	for i := range int64(counters) {
		writers.Go(func() {
			var b [4096]byte
			for n := uint64(1); !stop.Load(); n++ {
				binary.LittleEndian.PutUint64(b[:], n)
				for _, l := range lines {
					if err := l.write(t, b[:], i*4096); err != nil {
						t.Error(err)
						return
					}
				}
				count.Add(1)
			}
		})
	}
	g, rng := &grouping{}, seeded(t)
	for round := range 4 {
		for i, name := range names {
			must(t, cluster.Wait("disk "+name+" to move", patience, func() bool { r, err := c.CLI("disk", "move", name, "--to", hosts[i]); return err == nil && r.Code == 0 }))
		}
		g.run(c, names)
		g.more(t, 3)
		<-time.After(time.Duration(rng.Int64N(int64(100 * time.Millisecond)))) // anywhere in a group
		before := count.Load()
		kill(t, c, hosts[round%2])
		must(t, cluster.Wait("the counts to go on", patience, func() bool { return count.Load() > before+counters }))
		g.more(t, 2)
		g.stop.Store(true)
		g.done.Wait()
		revive(t, c, hosts[round%2])
		must(t, c.WaitUp(patience))
	}
	stop.Store(true)
	writers.Wait()
	for _, l := range lines {
		must(t, l.c.Close())
	}
	there := groupsOf(t, c, names[0]) // perhaps also one whose answer was lost
	if other := groupsOf(t, c, names[1]); !slices.Equal(there, other) {
		t.Errorf("the disks have groups %v and %v", there, other)
	}
	for _, i := range g.all {
		if !slices.Contains(there, i) {
			t.Errorf("group %d was taken, and there are %v", i, there)
		}
	}
	var last [counters]uint64
	for _, i := range there {
		last, _ = checkGroup(t, c, names, i, last)
	}
	t.Logf("%d counts, %d groups of %d that were asked for", count.Load(), len(there), g.next)
	for _, name := range names {
		dropSnapshots(t, c, name)
	}
}

// groupsOf are the groups of which a disk has a snapshot that is ready.
func groupsOf(t *testing.T, c *cluster.Cluster, disk string) (out []int) {
	t.Helper()
	var all []struct{ Name, State string }
	must(t, c.JSON(&all, "snapshot", "list", disk))
	for _, x := range all {
		var n int
		if _, err := fmt.Sscanf(x.Name, "g%d", &n); err == nil && x.State == "ready" {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// seeded draws a seed, says it, and gives what follows from it.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
