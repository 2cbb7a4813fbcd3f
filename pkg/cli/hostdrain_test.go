package cli

import (
	"testing"

	"ashlar.dev/pkg/api"
)

// Without this a host would be called drained while it still owns disks, or disks would go
// to hosts that are down or serve none.
func TestHostDrainMovesEverythingElsewhere(t *testing.T) {
	x := newTerminal(t)
	x.fake.disks = []*api.Disk{{DiskId: "d-1", Name: "a", OwnerHost: "b1"}, {DiskId: "d-2", Name: "b", OwnerHost: "b2"}, {DiskId: "d-3", Name: "c", OwnerHost: "b1"}}
	x.fake.status = &api.StatusReply{Disks: x.fake.disks, Stores: []*api.Store{{StoreId: "st-1", Host: "b1", State: "up"}, {StoreId: "st-2", Host: "b2", State: "up"}},
		Hosts: []*api.Host{{Host: "b1", Up: true, Exports: true}, {Host: "b2", Up: true, Exports: true}, {Host: "b3", Exports: true}, {Host: "b4", Up: true}}}
	if code := x.run("host drain b1 --stores"); code != codeOK {
		t.Fatalf("exit code %d: %s", code, x.err.String())
	}
	for _, d := range x.fake.disks {
		if d.OwnerHost != "b2" {
			t.Errorf("disk %s is on %s", d.Name, d.OwnerHost)
		}
	}
	if len(x.fake.drained) != 1 || x.fake.drained[0] != "st-1 false" {
		t.Errorf("drained %v", x.fake.drained)
	}
	if code := x.run("host drain b9"); code != codeNotFound {
		t.Errorf("a host that is not there: exit code %d", code)
	}
}
