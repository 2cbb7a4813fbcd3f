package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

func (g *group) members() *client.Members {
	g.t.Helper()
	c, err := client.NewMembers(client.Options{Addresses: g.addresses(),
		TLS: g.creds(pki.RoleOperator, "ops").Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	must(g.t, err)
	g.t.Cleanup(func() { c.Close() })
	return c
}

// newcomer starts a member that no file of the others names and that knows nobody.
func (g *group) newcomer(name string) Peer {
	g.t.Helper()
	p := Peer{ID: name, API: g.address(), Raft: g.address()}
	g.dirs[name] = filepath.Join(g.t.TempDir(), name)
	g.startAlone(p)
	g.t.Cleanup(func() { g.stop(name) })
	return p
}

func (g *group) startAlone(p Peer) {
	g.t.Helper()
	s, err := Open(Options{Config: Config{ID: p.ID, Listen: p.API, RaftListen: p.Raft, Data: g.dirs[p.ID], Peers: []Peer{p}},
		Listener: g.listener(p.API), RaftListener: g.listener(p.Raft), Creds: g.creds(pki.RoleMetad, p.ID), Clock: clock.System, Log: g.log.With("metad", p.ID), Timing: g.timing, Settings: testSettings})
	must(g.t, err)
	g.running[p.ID] = s
}

// votes waits until a member votes by the word of all that run. The leader alone lists what it has last proposed, which may be
// nowhere else yet: who then kills it leaves a group that knows of no such vote, and has none to spare.
func (g *group) votes(m *client.Members, name string) {
	g.t.Helper()
	g.until(name+" to vote", func() bool {
		for _, s := range g.running {
			if !slices.ContainsFunc(s.node.Members(), func(x consensus.Member) bool { return x.ID == name && x.Voter }) {
				return false
			}
		}
		all, err := m.List(g.ctx())
		if err != nil {
			return false
		}
		for _, x := range all {
			if x.Id == name && x.Voter {
				return true
			}
		}
		return false
	})
}

func ids(all []*api.GroupMember) (out []string) {
	for _, x := range all {
		out = append(out, x.Id)
	}
	return out
}

// A disk of a member died: another machine takes its place, by commands, and the group
// survives the loss of one again. Without this a cluster lives as long as its first machines.
func TestMemberIsReplaced(t *testing.T) {
	g := newGroup(t, 3)
	ops, m := g.operator(), g.members()
	leader := g.leader()
	_, err := ops.CreateDisk(g.ctx(), "x", 1<<30)
	must(t, err)
	gone := "m1"
	if leader == gone {
		gone = "m2"
	}
	g.kill(gone)
	must(t, os.RemoveAll(g.dirs[gone]))
	p := g.newcomer("m4")
	must(t, m.Add(g.ctx(), p.ID, p.API, p.Raft))
	must(t, m.Add(g.ctx(), p.ID, p.API, p.Raft)) // harmless
	g.votes(m, "m4")
	must(t, m.Remove(g.ctx(), gone, true))
	all, err := m.List(g.ctx())
	must(t, err)
	if len(all) != 3 {
		t.Fatalf("members %v", ids(all))
	}
	// The newcomer and one of the old make a majority, from the newcomer's own word alone.
	g.kill(leader)
	_, err = ops.Disk(g.ctx(), "x")
	must(t, err)
	// It is found again after a restart, though no file names it.
	g.start(leader)
	g.kill("m4")
	g.startAlone(p)
	g.until("all to answer", func() bool {
		all, err := m.List(g.ctx())
		if err != nil {
			return false
		}
		for _, x := range all {
			if !x.Up {
				return false
			}
		}
		return len(all) == 3
	})
}

// Without this a member that was silent, was taken out and came back empty under its old name
// would count as silent until the next election.
func TestMemberComesBackUnderItsName(t *testing.T) {
	g := newGroup(t, 3)
	m := g.members()
	gone := "m1"
	if g.leader() == gone {
		gone = "m2"
	}
	up := func() (n int) {
		all, err := m.List(g.ctx())
		if err != nil {
			return -1
		}
		for _, x := range all {
			if x.Up {
				n++
			}
		}
		return n
	}
	g.kill(gone)
	must(t, os.RemoveAll(g.dirs[gone]))
	g.until("its silence to be noticed", func() bool { return up() == 2 })
	must(t, m.Remove(g.ctx(), gone, true))
	var p Peer
	for _, x := range g.peers {
		if x.ID == gone {
			p = x
		}
	}
	g.startAlone(p)
	must(t, m.Add(g.ctx(), p.ID, p.API, p.Raft))
	g.until("all to answer", func() bool { return up() == 3 })
}

// Without the hand-over a leader told to go would leave its followers waiting, and its own
// removal might be the entry that nobody commits.
func TestRemovedLeaderHandsOverFirst(t *testing.T) {
	g := newGroup(t, 3)
	m := g.members()
	leader := g.leader()
	must(t, m.Remove(g.ctx(), leader, true))
	all, err := m.List(g.ctx())
	must(t, err)
	for _, x := range all {
		if x.Id == leader {
			t.Fatalf("%s is a member still", leader)
		}
	}
	if g.running[leader].reign.Load() != nil {
		t.Fatal("the member that was taken out leads")
	}
	// Two are left of which both live: one can go, the last cannot.
	must(t, m.Remove(g.ctx(), all[0].Id, true))
	if err := m.Remove(g.ctx(), all[1].Id, true); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("the only voter was taken out: %v", err)
	}
}

// Schedule: one of three is down, and the operator removes one that lives. One of two is no
// majority: the group would be lost though two of three were there.
func TestRemovalThatLosesTheMajorityIsRefused(t *testing.T) {
	g := newGroup(t, 3)
	m := g.members()
	leader := g.leader()
	var down, up string
	for _, p := range g.peers {
		switch {
		case p.ID == leader:
		case down == "":
			down = p.ID
		default:
			up = p.ID
		}
	}
	g.kill(down)
	if err := m.Remove(g.ctx(), up, true); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("want a refusal, got %v", err)
	}
	must(t, m.Remove(g.ctx(), down, true))
	must(t, m.Remove(g.ctx(), up, true))
	if err := m.Remove(g.ctx(), "nobody", true); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("want not found, got %v", err)
	}
}

// Schedule: the leader lets a member in and dies before it gets its vote. The next one goes on.
func TestNewMemberGetsItsVoteAfterTheLeaderDied(t *testing.T) {
	g := newGroup(t, 3)
	m := g.members()
	first := g.leader()
	p := g.newcomer("m4")
	s := g.running[first]
	res, err := s.node.Apply(g.ctx(), &state.SetMember{Member: state.Member(p)})
	must(t, errors.Join(err, res.Err))
	must(t, s.node.AddNonvoter(g.ctx(), consensus.Peer(p)))
	g.kill(first)
	g.votes(m, "m4")
	all, err := m.List(g.ctx())
	must(t, err)
	if len(all) != 4 {
		t.Fatalf("members %v", ids(all))
	}
}

// Without this two clusters' logs could be mixed by one wrong address.
func TestMemberOfAnotherClusterIsNotLetIn(t *testing.T) {
	g := newGroup(t, 1)
	m := g.members()
	g.leader()
	p := Peer{ID: "m9", API: g.address(), Raft: g.address()}
	if err := m.Add(g.ctx(), p.ID, "nonsense", p.Raft); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("an address without a port: %v", err)
	}
	g.dirs[p.ID] = filepath.Join(t.TempDir(), p.ID)
	s, err := Open(Options{Config: Config{ID: p.ID, Listen: p.API, RaftListen: p.Raft, Data: g.dirs[p.ID], Peers: []Peer{p}, Bootstrap: true},
		Listener: g.listener(p.API), RaftListener: g.listener(p.Raft), Creds: g.creds(pki.RoleMetad, p.ID), Clock: clock.System, Log: g.log.With("metad", p.ID), Timing: g.timing, Settings: testSettings})
	must(t, err)
	g.t.Cleanup(func() { must(t, s.Close()) })
	g.until("another cluster", func() bool { return s.reign.Load() != nil })
	if err := m.Add(g.ctx(), p.ID, p.API, p.Raft); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("want a refusal, got %v", err)
	}
}

// A member that is cut off from the majority answers nothing that would be old, and
// grants nothing. Without this two hosts could own a disk.
func TestLeaderWithoutMajorityGrantsNothing(t *testing.T) {
	g := newGroup(t, 3)
	ops := g.operator()
	leader := g.leader()
	_, err := ops.CreateDisk(g.ctx(), "x", 1<<30)
	must(t, err)
	for _, p := range g.peers {
		if p.ID != leader {
			g.kill(p.ID)
		}
	}
	s := g.running[leader]
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if res, err := s.node.Apply(ctx, &state.CreateVolume{Name: "y", Size: 1 << 30}); err == nil {
		t.Fatalf("committed without a majority: %+v", res)
	}
	if err := s.node.VerifyLeader(ctx); err == nil {
		t.Fatal("a leader without a majority believes that it leads")
	}
}

// Without this a member that joins a group whose log was cut would never catch up, or one
// that is loaded would grow its log without bound.
func TestNewMemberCatchesUpFromASnapshotUnderLoad(t *testing.T) {
	g := newGroup(t, 1)
	g.stop("m1")
	g.timing.SnapshotEntries = 64
	g.start("m1")
	ops, m := g.operator(), g.members()
	s := g.running[g.leader()]
	ctx, stop := context.WithCancel(context.Background())
	loaded := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if res, err := s.node.Apply(ctx, &state.SetMember{Member: state.Member(g.peers[0])}); err == nil && res.Err == nil {
				n++
			}
		}
		loaded <- n
	}()
	_, err := ops.CreateDisk(g.ctx(), "x", 1<<30)
	must(t, err)
	g.until("some load", func() bool { return s.node.LastIndex() > 300 })
	must(t, s.node.Snapshot())
	p := g.newcomer("m2")
	must(t, m.Add(g.ctx(), p.ID, p.API, p.Raft))
	g.votes(m, "m2")
	stop()
	if n := <-loaded; n < 200 {
		t.Fatalf("%d commands under load", n)
	}
	joined := g.running["m2"]
	var has bool
	g.until("the newcomer to know the disk", func() bool {
		joined.node.View(func(x *state.Machine) { _, has = x.Find("x") })
		return has && !joined.node.Joining()
	})
}

// Without this a typing error would be told as done: whoever is asked first and does not lead has done nothing.
func TestRemovalOfNobodyIsSaid(t *testing.T) {
	g := newGroup(t, 3)
	leader := g.leader()
	m := g.members()
	for range 3 { // whichever is asked first
		if err := m.Remove(g.ctx(), "nobody", false); !errors.Is(err, errs.ErrNotFound) {
			t.Fatalf("want not found, got %v", err)
		}
	}
	for _, p := range g.peers {
		if p.ID == leader {
			continue
		}
		one, err := client.NewMembers(client.Options{Addresses: []string{p.API}, TLS: g.creds(pki.RoleOperator, "ann").Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
		must(t, err)
		if err := one.Remove(g.ctx(), "nobody", false); !errors.Is(err, errs.ErrNotFound) {
			t.Errorf("asked of one that does not lead: want not found, got %v", err)
		}
		must(t, one.Close())
	}
}

// Without this a group could be made one that survives no loss by a command that does not say so.
func TestRemovalThatWeakensMustBeMeant(t *testing.T) {
	group := func(voters int) (out []consensus.Member) {
		for i := range voters {
			out = append(out, consensus.Member{Peer: consensus.Peer{ID: string(rune('a' + i))}, Voter: true})
		}
		return append(out, consensus.Member{Peer: consensus.Peer{ID: "late"}})
	}
	for voters, refused := range map[int]bool{2: true, 3: true, 4: false, 5: true, 6: false, 7: true} {
		if err := wouldWeaken("a", group(voters)); errors.Is(err, errs.ErrConflict) != refused {
			t.Errorf("one of %d: %v", voters, err)
		}
		if err := wouldWeaken("late", group(voters)); err != nil {
			t.Errorf("one that has no vote: %v", err)
		}
	}
	g := newGroup(t, 3)
	leader, m := g.leader(), g.members()
	for _, p := range g.peers {
		if p.ID == leader {
			continue
		}
		if err := m.Remove(g.ctx(), p.ID, false); !errors.Is(err, errs.ErrConflict) {
			t.Fatalf("one of three was taken out: %v", err)
		}
	}
	all, err := m.List(g.ctx())
	if err != nil || len(all) != 3 {
		t.Fatal(ids(all), err)
	}
}
