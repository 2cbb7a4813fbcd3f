package server

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/enroll"
)

func (g *group) events(after uint64) []*api.Event {
	g.t.Helper()
	all, _, err := g.operator().Events(g.ctx(), after, time.Time{}, 1000, 0)
	must(g.t, err)
	return all
}

func (g *group) untilEvent(kind, subject string) *api.Event {
	g.t.Helper()
	ops := g.operator()
	var found *api.Event
	g.until("an event "+kind+" of "+subject, func() bool {
		all, _, err := ops.Events(g.ctx(), 0, time.Time{}, 1000, 0)
		must(g.t, err)
		for _, e := range all {
			if e.Kind == kind && e.Subject == subject {
				found = e
			}
		}
		return found != nil
	})
	return found
}

// Without this what happened would be in the log of whoever led then: events outlive their
// leader, go on in one order, and tell of what a leader only believes once.
func TestEventsOutliveTheirLeader(t *testing.T) {
	g := newGroup(t, 3)
	first := g.leader()
	_, err := g.operator().CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	h := g.host("h1", 1)
	store := h.stores[0].Store.String()
	g.untilEvent("disk_created", "d")
	g.untilEvent("store_up", store)
	g.stop(first)
	g.start(first)
	g.leader()
	h.silence()
	down := g.untilEvent("host_down", "h1")
	if down.Severity != api.Severity_SEVERITY_WARNING || down.About != "host" {
		t.Errorf("event %v", down)
	}
	g.untilEvent("store_down", store)
	n := map[string]int{}
	var last uint64
	for _, e := range g.events(0) {
		if e.Seq <= last {
			t.Errorf("event %d after %d", e.Seq, last)
		}
		last = e.Seq
		n[e.Kind+" "+e.Subject]++
	}
	for _, once := range []string{"disk_created d", "store_up " + store, "host_up h1", "host_down h1"} {
		if n[once] != 1 {
			t.Errorf("%s is told %d times", once, n[once])
		}
	}
}

// Without this a follower would have to ask again and again, or miss what happens between.
func TestListEventsWaitsForNews(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	g.untilEvent("leads", "m1")
	ops := g.operator()
	got := make(chan []*api.Event, 1)
	_, last, err := ops.Events(g.ctx(), 0, time.Time{}, 1, 0)
	must(t, err)
	go func() {
		for {
			page, _, err := ops.Events(g.ctx(), last, time.Time{}, 1000, client.EventsWaitMax)
			if err != nil || slices.ContainsFunc(page, func(e *api.Event) bool { return e.Kind == "disk_created" }) {
				got <- page
				return
			}
		}
	}()
	_, err = g.operator().CreateDisk(g.ctx(), "d", 8<<20)
	must(t, err)
	if page := <-got; len(page) == 0 {
		t.Fatal("the follower got nothing")
	}
}

// Without this a host could speak of others, flood the cluster's memory, or have its words
// taken twice.
func TestWhatHostsTellIsBounded(t *testing.T) {
	g := newGroup(t, 1)
	g.leader()
	h := g.host("h1", 1)
	g.untilEvent("host_up", "h1") // events are kept from here on
	h.silence()
	beat := h.beat()
	for i := range client.EventsPerBeatMax {
		beat.Events = append(beat.Events, client.Event{N: uint64(i + 1), At: time.UnixMilli(5), Severity: client.Warning, Kind: "k", About: "disk", Subject: "x",
			Text: strings.Repeat("é", 10000) + "\x1b[2J\n"})
	}
	beat.Events[3].About, beat.Events[4].Kind, beat.Events[5].Severity = "gods", "no kind!", 77
	for range 3 { // answers that are lost
		_, err := h.Heartbeat(g.ctx(), beat)
		must(t, err)
	}
	var taken uint64
	g.until("all to be taken", func() bool {
		rep, err := h.Heartbeat(g.ctx(), beat)
		must(t, err)
		taken = rep.EventsTaken
		return taken == client.EventsPerBeatMax
	})
	n := 0
	for _, e := range g.events(0) {
		if e.By != "h1" || e.Kind == "store_refused" {
			continue
		}
		n++
		if len(e.Text) > state.EventTextMax || strings.ContainsAny(e.Text, "\n\x1b") {
			t.Errorf("text of %d bytes", len(e.Text))
		}
	}
	if n != client.EventsPerBeatMax {
		t.Errorf("%d events, want each once: %d", n, client.EventsPerBeatMax)
	}
	beat.Events = append(beat.Events, beat.Events...)
	if _, err := h.Heartbeat(g.ctx(), beat); err == nil {
		t.Error("a heartbeat with too many events was taken")
	}
}

// A secret in an event would be in every backup, on every screen and in every bundle.
func TestNoSecretInEvents(t *testing.T) {
	g := newSigningGroup(t, 1, "m1")
	g.leader()
	tok := g.invite([]string{"blockd"}, 1, time.Hour, "")
	g.untilEvent("token_made", fmt.Sprintf("%x", tok.ID))
	_, err := enroll.Join(g.ctx(), g.running["m1"].clock, testHost(t, "n1", "blockd"), tok)
	must(t, err)
	g.untilEvent("host_joined", "n1")
	text := fmt.Sprint(g.events(0))
	hash := tok.Hash()
	for what, secret := range map[string]string{"token": tok.Text(), "hash": fmt.Sprintf("%x", hash), "key": "PRIVATE KEY"} {
		if strings.Contains(text, secret) {
			t.Errorf("events tell the %s", what)
		}
	}
	g.until("the state to have them", func() (has bool) {
		g.running["m1"].node.View(func(m *state.Machine) { has = m.LastEvent() > 0 })
		return has
	})
}
