package server

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"ashlar.dev/metad/consensus"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// config is that of a member of the group.
func (g *group) config(member string) Config {
	for _, p := range g.peers {
		if p.ID == member {
			return Config{ID: p.ID, Listen: p.API, RaftListen: p.Raft, Data: g.dirs[p.ID], Peers: g.peers, Bootstrap: true}
		}
	}
	g.t.Fatalf("no member %s", member)
	return Config{}
}

// restore wipes all members and begins anew with m1 alone, from a backup.
func (g *group) restore(file []byte) {
	g.t.Helper()
	for _, p := range g.peers {
		g.stop(p.ID)
		must(g.t, os.RemoveAll(g.dirs[p.ID]))
	}
	b, err := cluster.DecodeBackup(file)
	must(g.t, err)
	m, err := state.Restore(b.State)
	must(g.t, err)
	must(g.t, begin(g.config("m1"), m, b.Term, g.log))
	g.start("m1")
	g.until("m1 to lead", func() bool { return g.running["m1"].reign.Load() != nil })
}

// All metads burn after more was granted than the backup knows. The restored one grants
// nothing until the stores have told, and then only what is above all that ever was.
func TestRestoredGroupRebuildsBeforeItGrants(t *testing.T) {
	g := newGroup(t, 3)
	ops, m := g.operator(), g.members()
	h := g.host("h1", 2)
	d, err := ops.CreateDisk(g.ctx(), "x", 1<<30)
	must(t, err)
	v := volumeID(t, d.DiskId)
	file, err := m.Backup(g.ctx())
	must(t, err)
	var granted id.Epoch
	for range 3 {
		a, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
		must(t, err)
		granted = a.Volume.Epoch
	}
	topology := h.Topology()
	h.silence()
	g.restore(file)

	if _, err := h.Acquire(shortly(g), v, h.holder, client.AcquireOpen); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("granted from a backup: %v", err)
	}
	if _, err := h.Heartbeat(shortly(g), h.beat()); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("a heartbeat was answered from a backup, and such answers delete: %v", err)
	}
	if _, err := ops.CreateDisk(shortly(g), "y", 1<<30); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("a disk was made: %v", err)
	}
	if _, err := m.Backup(shortly(g)); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("less than a backup was backed up: %v", err)
	}
	wanted, err := h.InventoryWanted(g.ctx(), "h1", h.stores)
	must(t, err)
	if len(wanted) != 2 {
		t.Fatalf("inventories wanted: %v", wanted)
	}
	if _, err := m.FinishRebuild(g.ctx(), nil); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("finished without the stores: %v", err)
	}
	for i, s := range h.stores {
		inv := client.Inventory{Store: s, Last: true, Volumes: []client.VolumeOnStore{{Volume: v, Fence: granted - id.Epoch(i)}}}
		must(t, h.TellInventory(g.ctx(), "h1", inv))
	}
	if err := h.TellInventory(g.ctx(), "h2", client.Inventory{Store: h.stores[0]}); !errors.Is(err, errs.ErrDenied) {
		t.Fatalf("a host spoke for another: %v", err)
	}
	r, err := m.FinishRebuild(g.ctx(), nil)
	must(t, err)
	if r.Rebuilding || len(r.Told) != 2 {
		t.Fatalf("status %+v", r)
	}
	h.register()
	a, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
	must(t, err)
	if a.Volume == nil || a.Volume.Epoch <= granted {
		t.Fatalf("granted %+v, and %s was granted before", a, granted)
	}
	g.until("a newer topology", func() bool { x := h.Topology(); return x != nil && x.Version > topology.Version })

	// The others join with empty folders.
	for _, p := range g.peers[1:] {
		g.start(p.ID)
		must(t, m.Add(g.ctx(), p.ID, p.API, p.Raft))
		g.votes(m, p.ID)
	}
	g.kill("m1")
	_, err = ops.Disk(g.ctx(), "x")
	must(t, err)
}

func shortly(g *group) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	g.t.Cleanup(cancel)
	return ctx
}

// Schedule: m1 begins anew while m2 and m3, thought lost, come back with their data and lead
// the old group. Their log must not become m1's, nor m1 be counted among them; and they
// are not let in before their folders are empty.
func TestMembersOfTheOldGroupStayOutOfTheNew(t *testing.T) {
	g := newGroup(t, 3)
	ops := g.operator()
	_, err := ops.CreateDisk(g.ctx(), "x", 1<<30)
	must(t, err)
	g.until("all to know the group", func() bool {
		for _, s := range g.running {
			if s.node.LastIndex() < electedIndex || s.node.Joining() {
				return false
			}
		}
		return true
	})
	for _, p := range g.peers {
		g.kill(p.ID)
	}
	m, term, err := consensus.ReadState(g.dirs["m1"], g.log)
	must(t, err)
	if _, ok := m.Find("x"); !ok {
		t.Fatal("the state on the disk lacks what was committed")
	}
	must(t, beginAnew(g.config("m1"), m, term, g.log))
	g.start("m2")
	g.start("m3")
	g.leader() // of the old group: two of three
	g.start("m1")
	g.until("m1 to lead", func() bool { return g.running["m1"].reign.Load() != nil })
	new1 := g.running["m1"]
	lineage := new1.truth()
	for deadline := time.Now().Add(5 * g.timing.Heartbeat); time.Now().Before(deadline); {
		if new1.reign.Load() == nil || new1.truth() != lineage {
			t.Fatal("the old group reached into the new one")
		}
		must(t, clock.System.Sleep(context.Background(), 5*time.Millisecond))
	}
	if all := new1.node.Members(); len(all) != 1 {
		t.Fatalf("members %v", all)
	}
	p := g.peers[1]
	err = (&membershipService{s: new1}).welcome(g.ctx(), consensus.Peer(p))
	if !errors.Is(err, errs.ErrConflict) || !strings.Contains(err.Error(), "before this one was restored") {
		t.Fatalf("want a refusal, got %v", err)
	}
	if err := alone(g.ctx(), g.config("m1"), g.creds(pki.RoleMetad, "m1"), state.New()); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("a second beginning beside a living group: %v", err)
	}
}
