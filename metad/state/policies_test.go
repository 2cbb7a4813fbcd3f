package state

import (
	"strings"
	"testing"
	"time"

	"ashlar.dev/metad/policy"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Without these rules a run would be carried out twice or by nobody, or a snapshot that a policy made would be
// nobody's and stay for ever.
func TestPolicyRunsOnceForEachTime(t *testing.T) {
	w, v := withDisk(t)
	w.refused(errs.ErrUnavailable, &SetPolicy{ID: id.Raw{1}, Name: "p", Rules: policy.Rules{At: []uint16{1}, Days: 1, Keep: 1}, New: true}) // of a later level
	w.ok(&SetLevel{Level: LevelTime})
	rules := policy.Rules{At: []uint16{120}, Days: policy.EveryDay, Retain: 48 * time.Hour}
	get := func() *Policy {
		p, _ := w.Policy("p")
		return p
	}
	w.refused(errs.ErrNotFound, &SetPolicy{Name: "p", Rules: rules})
	w.refused(errs.ErrInvalid, &SetPolicy{ID: id.Raw{1}, Name: "p", Rules: policy.Rules{At: rules.At, Days: 1}, New: true})
	w.refused(errs.ErrInvalid, &SetPolicy{ID: id.Raw{1}, Name: strings.Repeat("p", policyNameMax+1), Rules: rules, New: true})
	w.ok(&SetPolicy{ID: id.Raw{1}, Name: "p", Rules: rules, NowMS: 5, New: true})
	w.ok(&SetPolicy{ID: id.Raw{1}, Name: "p", Rules: rules, NowMS: 5, New: true}) // the answer was lost
	w.refused(errs.ErrExists, &SetPolicy{ID: id.Raw{2}, Name: "p", Rules: rules, New: true})
	w.refused(errs.ErrNotFound, &ApplyPolicy{Name: "p", Volumes: []id.Volume{{9}}})
	w.ok(&ApplyPolicy{Name: "p", Volumes: []id.Volume{v, v}})
	if len(get().Disks) != 1 {
		t.Fatalf("%+v", get())
	}
	due := time.Unix(7200, 0).UTC()
	made := []policy.Made{{Volume: v, Snapshot: id.Snapshot{1}, Due: due}}
	w.ok(&PolicyBegins{Policy: id.Raw{1}, Due: due, Made: made})
	w.refused(errs.ErrConflict, &PolicyBegins{Policy: id.Raw{1}, Due: due, Made: made}) // another leader
	if p := get(); !p.Last.Equal(due) || len(p.Runs) != 1 || !p.Runs[0].Open || len(p.Made) != 1 {
		t.Fatalf("%+v", p)
	}
	w.ok(&PolicyRan{Policy: id.Raw{1}, Run: PolicyRun{Due: due, Taken: 1}})
	w.ok(&PolicyRan{Policy: id.Raw{1}, Run: PolicyRun{Due: due, Failed: 1}}) // late: it is over
	if p := get(); p.Runs[0].Open || p.Runs[0].Taken != 1 || p.Runs[0].Failed != 0 {
		t.Fatalf("%+v", p)
	}
	w.ok(&PolicyBegins{Policy: id.Raw{1}, Due: due.AddDate(0, 0, 1), Skipped: "nobody led"})
	if p := get(); len(p.Runs) != 2 || p.Runs[1].Open || len(p.Made) != 1 {
		t.Fatalf("a run that is left out: %+v", p)
	}
	w.ok(&PolicyForgets{Policy: id.Raw{1}, Snapshots: []id.Snapshot{{1}}})
	if len(get().Made) != 0 {
		t.Fatalf("%+v", get())
	}
	for i := range runsMax {
		w.ok(&PolicyBegins{Policy: id.Raw{1}, Due: due.AddDate(0, 0, 2+i), Skipped: "again"})
	}
	if len(get().Runs) != runsMax {
		t.Fatalf("%d runs are remembered", len(get().Runs))
	}
	w.ok(&DeleteVolume{Volume: v, Epoch: 1, Forced: true})
	w.ok(&PolicyBegins{Policy: id.Raw{1}, Due: due.AddDate(0, 1, 0), Made: made})
	w.ok(&PolicyRan{Policy: id.Raw{1}, Run: PolicyRun{Due: due.AddDate(0, 1, 0)}})
	if p := get(); len(p.Disks) != 0 || len(p.Made) != 0 {
		t.Fatalf("a deleted disk is still the policy's: %+v", p)
	}
	w.ok(&DeletePolicy{Name: "p"})
	w.refused(errs.ErrNotFound, &DeletePolicy{Name: "p"})
	w.refused(errs.ErrNotFound, &PolicyRan{Policy: id.Raw{1}})
}
