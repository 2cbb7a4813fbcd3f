package state

import (
	"errors"
	"testing"
	"time"

	"ashlar.dev/metad/policy"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Without these rules a snapshot would be taken with nothing frozen though somebody relies on it, or an application be frozen
// for a disk that is under the policy no more.
func TestHooksBelongToTheDisksOfAPolicy(t *testing.T) {
	w, v := withDisk(t)
	w.ok(&SetLevel{Level: LevelTime})
	w.ok(&SetPolicy{ID: id.Raw{1}, Name: "p", Rules: policy.Rules{At: []uint16{120}, Days: policy.EveryDay, Keep: 1}, New: true})
	set := func(timeout time.Duration) *SetPolicyHook {
		return &SetPolicyHook{Policy: "p", Hook: PolicyHook{Volume: v, Host: "h1", Hook: "db", Timeout: timeout}}
	}
	w.refused(errs.ErrUnavailable, set(time.Second)) // of a later level
	w.ok(&SetLevel{Level: LevelImages})
	w.refused(errs.ErrConflict, set(time.Second)) // the disk is not under it
	w.ok(&ApplyPolicy{Name: "p", Volumes: []id.Volume{v}})
	w.refused(errs.ErrInvalid, set(0))
	w.refused(errs.ErrInvalid, set(HookTimeoutMax+time.Second))
	w.refused(errs.ErrNotFound, &SetPolicyHook{Policy: "none"})
	if err := CheckHook(&PolicyHook{Hook: "x", Timeout: time.Second}); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("no host: %v", err)
	}
	w.ok(set(time.Second))
	w.ok(set(5 * time.Second))
	w.Machine = restored(t, w.Machine)
	p, _ := w.Policy("p")
	if h := p.HookOf(v); h == nil || len(p.Hooks) != 1 || h.Timeout != 5*time.Second || h.Host != "h1" {
		t.Fatalf("%+v", p.Hooks)
	}
	off := set(0)
	off.Off = true
	w.ok(off)
	if p, _ := w.Policy("p"); p.HookOf(v) != nil {
		t.Fatalf("%+v", p.Hooks)
	}
	w.ok(set(time.Second))
	w.ok(&ApplyPolicy{Name: "p", Volumes: []id.Volume{v}, Off: true})
	if p, _ := w.Policy("p"); len(p.Hooks) != 0 {
		t.Fatalf("%+v", p.Hooks)
	}
}
