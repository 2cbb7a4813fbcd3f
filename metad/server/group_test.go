package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// Without this an operator's change could be lost, or be made twice, when the leader dies.
func TestChangesSurviveTheLeader(t *testing.T) {
	g := newGroup(t, 3)
	ops := g.operator()
	first, err := ops.CreateDisk(g.ctx(), "one", 1<<30)
	must(t, err)
	leader := g.leader()
	g.kill(leader)
	start := time.Now()
	second, err := ops.CreateDisk(g.ctx(), "two", 1<<30)
	must(t, err)
	t.Logf("from the leader's death to the next change: %v", time.Since(start))
	g.start(leader)
	disks, err := ops.Disks(g.ctx())
	must(t, err)
	if len(disks) != 2 || disks[0].DiskId != first.DiskId || disks[1].DiskId != second.DiskId {
		t.Fatalf("disks are %v", disks)
	}
	if _, err := ops.CreateDisk(g.ctx(), "one", 1<<30); !errors.Is(err, errs.ErrExists) {
		t.Fatalf("a taken name gave %v", err)
	}
}

// All members stop and come back: the truth is on their disks, behind a snapshot and a
// truncated log.
func TestTruthSurvivesRestartOfAll(t *testing.T) {
	g := newGroup(t, 3)
	g.timing.SnapshotEntries = 16
	ops := g.operator()
	h := g.host("h1", 3)
	d, err := ops.CreateDisk(g.ctx(), "disk", 1<<30)
	must(t, err)
	v := volumeID(t, d.DiskId)
	a, err := h.Acquire(g.ctx(), v, h.holder, client.AcquireOpen)
	must(t, err)
	var last client.Range
	for range 40 {
		r, err := h.AllocRange(g.ctx(), v, a.Volume.Epoch)
		must(t, err)
		if r.First <= last.First {
			t.Fatalf("range %v after %v", r, last)
		}
		last = r
	}
	for _, s := range g.running {
		must(t, s.node.Snapshot())
	}
	for _, p := range g.peers {
		g.stop(p.ID)
	}
	for _, p := range g.peers {
		g.start(p.ID)
	}
	r, err := h.AllocRange(g.ctx(), v, a.Volume.Epoch)
	must(t, err)
	if r.First < last.First+id.Sequence(last.Count) {
		t.Fatalf("after the restart range %v was given again, the last was %v", r, last)
	}
	got, err := h.Volume(g.ctx(), v)
	must(t, err)
	if got.Epoch != a.Volume.Epoch || got.Owner != h.holder {
		t.Fatalf("the owner was forgotten: %+v", got)
	}
}

// A member that was away while the log was cut off behind it is sent a snapshot.
func TestMemberCatchesUpFromSnapshot(t *testing.T) {
	g := newGroup(t, 3)
	for _, p := range g.peers {
		g.stop(p.ID)
	}
	g.timing.SnapshotEntries = 8
	for _, p := range g.peers {
		g.start(p.ID)
	}
	ops := g.operator()
	g.leader()
	var away string
	for name := range g.running {
		if name != g.leader() {
			away = name
		}
	}
	g.kill(away)
	for _, name := range strings.Fields("a b c d e f g h i j k l m n o p q r s t") {
		_, err := ops.CreateDisk(g.ctx(), name, 1<<30)
		must(t, err)
	}
	for _, s := range g.running {
		must(t, s.node.Snapshot())
	}
	g.start(away)
	leader := g.running[g.leader()]
	want := leader.node.Members()
	g.until("the member to catch up", func() bool {
		for _, m := range g.running[away].node.Members() {
			for _, w := range want {
				if m.ID == away && w.Applied > 0 && m.Applied >= w.Applied {
					return true
				}
			}
		}
		return false
	})
}

// A follower does nothing itself and says who leads; a client that knows only the
// follower gets there.
func TestFollowerPointsToLeader(t *testing.T) {
	g := newGroup(t, 3)
	leader := g.leader()
	for _, p := range g.peers {
		if p.ID == leader {
			continue
		}
		c, err := client.NewCluster(client.Options{Addresses: []string{p.API},
			TLS: g.creds(pki.RoleOperator, "ops").Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
		must(t, err)
		defer c.Close()
		if _, err := c.CreateDisk(g.ctx(), "by-"+p.ID, 1<<30); err != nil {
			t.Fatal(err)
		}
	}
}

// Certificates decide: an operator is no blockd, a blockd is no operator, and a blockd
// speaks for itself only.
func TestRolesAreEnforced(t *testing.T) {
	g := newGroup(t, 1)
	h := g.host("h1", 1)
	if _, err := h.Register(g.ctx(), client.Registration{Holder: id.Holder{Host: "h2", Number: 1}}); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("registering another host gave %v", err)
	}
	asOperator, err := client.NewCluster(client.Options{Addresses: g.addresses(),
		TLS: g.creds(pki.RoleBlockd, "h1").Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	must(t, err)
	defer asOperator.Close()
	if _, err := asOperator.Disks(g.ctx()); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("a blockd listing disks as an operator gave %v", err)
	}
	asBlockd, err := client.NewBlockd(client.Options{Addresses: g.addresses(),
		TLS: g.creds(pki.RoleOperator, "ops").Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	must(t, err)
	defer asBlockd.Close()
	if _, err := asBlockd.FindVolume(g.ctx(), "x"); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("an operator asking as a blockd gave %v", err)
	}
}

// Three hosts of two stores get 4+2; with one host silent 1+2 over the two that are
// left, for 2+1 would put two shards on one host; with it back 4+2 again.
func TestPlacementFollowsTheLiving(t *testing.T) {
	g := newGroup(t, 1)
	ops := g.operator()
	hosts := []*host{g.host("h1", 2), g.host("h2", 2), g.host("h3", 2)}
	preferred := func() string {
		top := hosts[0].Topology()
		if top == nil {
			return ""
		}
		for _, p := range top.PGs {
			if c := p.Current(); p.Preferred {
				if c.Relaxed {
					return "relaxed"
				}
				return string('0'+c.K) + "+" + string('0'+c.M)
			}
		}
		return "none"
	}
	g.until("4+2", func() bool { return preferred() == "4+2" })
	hosts[2].silence()
	g.until("1+2", func() bool { return preferred() == "1+2" })
	s, err := ops.Status(g.ctx(), true)
	must(t, err)
	if s.Health != api.Health_HEALTH_AT_RISK || s.Counts.StoresUp != 4 || s.Counts.HostsUp != 2 || len(s.Reasons) == 0 {
		t.Errorf("with a host down the status is %v", s)
	}
	hosts[2].speak()
	g.until("4+2 again", func() bool { return preferred() == "4+2" })
	s, err = ops.WaitHealth(g.ctx(), api.Health_HEALTH_DEGRADED) // of three hosts one is a metad
	must(t, err)
	if len(s.Reasons) != 1 || s.Reasons[0].Code != "metad_few" || s.Counts.StoresUp != 6 || s.Hosts[0].Memory[0].UsedBytes != 7 || s.UsedBytes != 6<<20 {
		t.Errorf("with all up the status is %v", s)
	}
}

// EnsurePlacement works before metad has noticed anything itself: the engine excludes
// what it finds dead.
func TestEnsurePlacementHeedsExclusions(t *testing.T) {
	g := newGroup(t, 1)
	hosts := []*host{g.host("h1", 2), g.host("h2", 2), g.host("h3", 2)}
	dead := hosts[0].stores
	top, err := hosts[1].EnsurePlacement(g.ctx(), []id.Store{dead[0].Store, dead[1].Store})
	must(t, err)
	usable := 0
	for _, p := range top.PGs {
		ok := p.Healthy
		for _, s := range p.Current().Stores {
			ok = ok && s != dead[0] && s != dead[1]
		}
		if ok {
			usable++
		}
	}
	if usable == 0 {
		t.Fatalf("no group avoids the excluded stores: %+v", top.PGs)
	}
}

// The life of a disk: who may own it, when another may take it, how it goes.
func TestOwnershipAndTakeover(t *testing.T) {
	g := newGroup(t, 3)
	ops := g.operator()
	h1, h2, h3 := g.host("h1", 1), g.host("h2", 1), g.host("h3", 1)
	d, err := ops.CreateDisk(g.ctx(), "disk", 1<<30)
	must(t, err)
	v := volumeID(t, d.DiskId)
	a, err := h1.Acquire(g.ctx(), v, h1.holder, client.AcquireOpen)
	must(t, err)
	h1.serves(v, a.Volume.Epoch, 1)
	rec := open(t, g, h1, a.Volume)

	refused, err := h2.Acquire(g.ctx(), v, h2.holder, client.AcquireOpen)
	must(t, err)
	if refused.Refused == nil || refused.Refused.Owner != h1.holder || refused.Refused.DataAddress == "" {
		t.Fatalf("a second owner got %+v", refused)
	}
	g.until("metad to hear of the session", func() bool { d, err := ops.Disk(g.ctx(), "disk"); must(t, err); return d.Sessions == 1 })
	if _, err := ops.DeleteDisk(g.ctx(), "disk", client.Deletion{}); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("deleting an attached disk gave %v", err)
	}
	ends, err := ops.DiskEndpoints(g.ctx(), "disk")
	must(t, err)
	if len(ends.Endpoints) != 3 || ends.Endpoints[0].Host != "h1" || ends.Endpoints[0].UnixUri != "nbd+unix:///"+d.DiskId+"?socket=/run/h1/nbd.sock" {
		t.Fatalf("endpoints are %v", ends)
	}

	h1.silence()
	var taken client.Acquired
	g.until("the takeover", func() bool {
		taken, err = h2.Acquire(g.ctx(), v, h2.holder, client.AcquireTakeover)
		must(t, err)
		return taken.Volume != nil
	})
	if taken.Volume.Epoch != rec.Epoch+1 || len(taken.Volume.Prior) != 1 || taken.Volume.Prior[0] != "h1" {
		t.Fatalf("taken over as %+v", taken.Volume)
	}
	_, err = h1.AddEnsemble(g.ctx(), client.AddEnsemble{At: client.ListVersion{Volume: v, Epoch: rec.Epoch, Version: rec.ListVersion}})
	if !errors.Is(err, errs.ErrStaleEpoch) || client.Current(err) == nil || client.Current(err).Epoch != taken.Volume.Epoch {
		t.Fatalf("the fenced owner got %v", err)
	}
	h1.speak()
	g.until("h1 to hear that it is fenced", func() bool {
		for _, n := range h1.lastReply().Volumes {
			if n.Epoch > rec.Epoch && !n.Owned {
				return true
			}
		}
		return false
	})

	rec = open(t, g, h2, taken.Volume)
	must(t, h2.Release(g.ctx(), v, rec.Epoch, h2.holder))
	again, err := h3.Acquire(g.ctx(), v, h3.holder, client.AcquireHandoff)
	must(t, err)
	if again.Volume == nil || len(again.Volume.Prior) != 0 {
		t.Fatalf("after a release the next owner got %+v", again)
	}
	purge(t, g, ops, v, h1, h2, h3)
}

// purge deletes the disk and confirms for all stores.
func purge(t *testing.T, g *group, ops *client.Cluster, v id.Volume, hosts ...*host) {
	_, err := ops.DeleteDisk(g.ctx(), v.String(), client.Deletion{Force: true, Purge: true})
	must(t, err)
	if _, err := ops.Disk(g.ctx(), "disk"); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("the name is still there: %v", err)
	}
	_, err = ops.CreateDisk(g.ctx(), "disk", 1<<30)
	must(t, err)
	for _, h := range hosts {
		g.until("the purge to be asked of "+string(h.holder.Host), func() bool { return len(h.lastReply().Purges) == len(h.stores) })
		for _, s := range h.stores {
			must(t, h.ConfirmPurge(g.ctx(), h.holder.Host, s, v))
			must(t, h.ConfirmPurge(g.ctx(), h.holder.Host, s, v))
		}
	}
	if _, err := hosts[0].Volume(g.ctx(), v); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("the record is still there: %v", err)
	}
}

// serves makes the host's heartbeats speak of the volume.
func (h *host) serves(v id.Volume, e id.Epoch, sessions uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.volumes = []client.VolumeBeat{{Volume: v, Epoch: e, Sessions: sessions, State: client.VolumeServing}}
}

// open goes through an owner's opening.
func open(t *testing.T, g *group, h *host, v *cluster.Volume) *cluster.Volume {
	t.Helper()
	v, err := h.AddEnsemble(g.ctx(), client.AddEnsemble{At: version(v)})
	must(t, err)
	e, _ := v.Newest()
	v, err = h.ReplaceList(g.ctx(), version(v), e.ID)
	must(t, err)
	if len(v.List) != 1 || !v.OpenComplete || len(v.Prior) != 0 {
		t.Fatalf("opened as %+v", v)
	}
	return v
}

func version(v *cluster.Volume) client.ListVersion {
	return client.ListVersion{Volume: v.ID, Epoch: v.Epoch, Version: v.ListVersion}
}
