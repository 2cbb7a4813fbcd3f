package server

import (
	"context"
	"os"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
)

// Schedule: x is committed on A and B while C is away; B's disk is lost and replaced; A
// stops; C comes back. Were B to vote, C would lead a group that never heard of x: a
// disk gone, or an epoch given twice. B must not vote before it has x again, and then
// it must, or the group could not lose A.
func TestMemberWithLostDiskDoesNotVote(t *testing.T) {
	g := newGroup(t, 3)
	ops := g.operator()
	a := g.leader()
	var others []string
	for _, p := range g.peers {
		if p.ID != a {
			others = append(others, p.ID)
		}
	}
	b, c := others[0], others[1]
	g.until("all to know the group", func() bool {
		return g.running[b].node.LastIndex() >= electedIndex && g.running[c].node.LastIndex() >= electedIndex
	})
	g.kill(c)
	_, err := ops.CreateDisk(g.ctx(), "x", 1<<30)
	must(t, err)
	g.kill(b)
	must(t, os.RemoveAll(g.dirs[b]))
	g.kill(a)
	g.start(c)
	g.start(b)
	for deadline := time.Now().Add(6 * g.timing.Heartbeat); time.Now().Before(deadline); {
		for name, s := range g.running {
			if s.reign.Load() != nil {
				t.Fatalf("%s leads without the only member that has everything", name)
			}
		}
		must(t, clock.System.Sleep(context.Background(), 5*time.Millisecond))
	}
	g.start(a)
	_, err = ops.Disk(g.ctx(), "x")
	must(t, err)
	g.until("b to catch up and vote", func() bool { return !g.running[b].node.Joining() })
	g.kill(a)
	_, err = ops.Disk(g.ctx(), "x")
	must(t, err)
}

// A new group is founded only by all its members together, whatever the order in which
// they come, and one that joins late takes part in the end.
func TestGroupIsFoundedByAll(t *testing.T) {
	g := newGroup(t, 3)
	for _, p := range g.peers {
		g.stop(p.ID)
		must(t, os.RemoveAll(g.dirs[p.ID]))
	}
	g.start("m1")
	g.start("m2")
	for deadline := time.Now().Add(4 * g.timing.Heartbeat); time.Now().Before(deadline); {
		if g.running["m1"].reign.Load() != nil || g.running["m2"].reign.Load() != nil {
			t.Fatal("two of three founded a group; the third may have had one")
		}
		must(t, clock.System.Sleep(context.Background(), 5*time.Millisecond))
	}
	g.start("m3")
	g.leader()
	g.until("all to vote", func() bool {
		for _, s := range g.running {
			if s.node.Joining() || s.node.LastIndex() < electedIndex {
				return false
			}
		}
		return true
	})
}
