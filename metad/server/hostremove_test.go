package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Without this a machine that was given away still speaks for its old host with the keys that
// are on its disks, or one that lives is taken off the list. Blockds learn whom to refuse too.
func TestRemovedHostIsRefusedWithItsCertificateOfBefore(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	ops := g.operator()
	other, h := g.host("h1", 1), g.host("h2", 0)
	stays := func(host, why string) {
		t.Helper()
		if err := ops.RemoveHost(g.ctx(), host); !errors.Is(err, errs.ErrConflict) || !strings.Contains(err.Error(), why) {
			t.Errorf("remove %s: %v", host, err)
		}
	}
	stays("h2", "stop it")
	stays(g.peers[0].ID, "metad remove")
	if err := ops.RemoveHost(g.ctx(), "h9"); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("a host that is not there: %v", err)
	}
	mine, err := client.NewCluster(client.Options{Addresses: g.addresses(), TLS: g.creds(pki.RoleOperator, "h1").Client(pki.Expect{Roles: []pki.Role{pki.RoleMetad}})})
	must(t, err)
	defer mine.Close()
	if err := mine.RemoveHost(g.ctx(), "h1"); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("by itself: %v", err)
	}
	h.silence()
	g.until("the host to be silent, and gone", func() bool { return ops.RemoveHost(g.ctx(), "h2") == nil })
	if _, err := h.Heartbeat(g.ctx(), h.beat()); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("it speaks: %v", err)
	}
	if _, err := h.Register(g.ctx(), client.Registration{Holder: h.holder, DataAddress: "127.0.0.1:1"}); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("it comes back: %v", err)
	}
	g.until("others to know", func() bool {
		top := other.Topology()
		return len(top.Removed) == 1 && top.Removed[0].Host == "h2" && time.Since(time.UnixMilli(top.Removed[0].AtMS)) < time.Hour
	})
	g.untilEvent("host_removed", "h2")
}
