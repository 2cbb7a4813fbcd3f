package reconcile

import (
	"strings"
	"testing"
)

// Without this each change of metad's leader in a cluster that starts is told as the loss of all
// stores; and what is truly lost is not told because nobody has spoken yet.
func TestNewLeaderSaysThatItHasNotHeardYet(t *testing.T) {
	s := newScene(t, 2, 2, 2)
	s.place()
	reason := func(h *Report, code string) *Reason {
		for i := range h.Reasons {
			if h.Reasons[i].Code == code {
				return &h.Reasons[i]
			}
		}
		return nil
	}
	if h := s.health(); h.Level != OK || reason(h, "leader_new") == nil || !strings.Contains(reason(h, "leader_new").Text, "0 of 6 stores") {
		t.Errorf("at once: %+v", h)
	}
	s.now = s.m.Settings().HeartbeatTimeout + second
	s.beat(1)
	if h := s.health(); h.Level != Degraded || len(h.Reasons) != 1 || !strings.Contains(h.Reasons[0].Text, "2 of 6 stores") {
		t.Errorf("when others are late: %+v", h)
	}
	s.dead[ref(1, 1)] = "its disk failed"
	s.beat(1)
	if h := s.health(); reason(h, "store_down") == nil {
		t.Errorf("one that has said that it died: %+v", h)
	}
	delete(s.dead, ref(1, 1))
	s.now = unheardGrace*s.m.Settings().HeartbeatTimeout + second
	s.beat(1)
	if h := s.health(); h.Level < AtRisk || reason(h, "leader_new") != nil || reason(h, "store_down") == nil {
		t.Errorf("when the grace is over: %+v", h)
	}
	s.beat(1, 2, 3)
	if h := s.health(); reason(h, "leader_new") != nil || reason(h, "store_down") != nil {
		t.Errorf("when all have spoken: %+v", h)
	}
}

// Without this a rebuilding looks as if no store had survived.
func TestHealthInARebuildingIsOfTheRebuilding(t *testing.T) {
	s := newScene(t, 2, 2, 2)
	s.now = 100 * second
	s.m.Reopen([16]byte{9})
	if h := s.health(); h.Level != AtRisk || len(h.Reasons) != 1 || h.Reasons[0].Code != "rebuilding" {
		t.Errorf("%+v", h)
	}
}
