package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// CordonHost changes the host of f.status.
func (f *fake) CordonHost(_ context.Context, host string, off bool) (*api.Host, error) {
	for _, h := range f.status.Hosts {
		if h.Host == host {
			h.Cordoned = !off
			return h, nil
		}
	}
	return nil, fmt.Errorf("host %s: %w", host, errs.ErrNotFound)
}

// A cordon is shown wherever hosts are, and a drain moves nothing onto a cordoned host.
func TestCordonIsShownAndRespected(t *testing.T) {
	x := newTerminal(t)
	x.fake.disks = []*api.Disk{{DiskId: "d-1", Name: "a", OwnerHost: "b1"}}
	x.fake.status = &api.StatusReply{Disks: x.fake.disks, Hosts: []*api.Host{{Host: "b1", Up: true, Exports: true}, {Host: "b2", Up: true, Exports: true}, {Host: "b3", Up: true, Exports: true}}}
	if out := x.must("host cordon b2"); !strings.Contains(out, "ashlar host uncordon b2") {
		t.Error(out)
	}
	for _, line := range []string{"host list", "status"} {
		if out := x.must(line); !strings.Contains(out, "up, cordoned") {
			t.Errorf("%s: %s", line, out)
		}
	}
	x.must("host drain b1")
	if o := x.fake.disks[0].OwnerHost; o != "b3" {
		t.Errorf("the disk went to %s", o)
	}
	x.must("host uncordon b2")
	if out := x.must("host list -o json"); !strings.Contains(out, `"cordoned": false`) || strings.Contains(out, `"cordoned": true`) {
		t.Error(out)
	}
	if code := x.run("host cordon b9"); code != codeNotFound {
		t.Errorf("exit code %d", code)
	}
}
