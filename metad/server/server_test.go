package server

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

// The daemon as it is started: from its files, until it is told to stop; and again on
// what it left.
func TestRunServesFromItsFiles(t *testing.T) {
	g := &group{t: t}
	var err error
	g.ca, err = pki.NewCA(clock.System, "test")
	must(t, err)
	dir := t.TempDir()
	pair, err := g.ca.Issue(pki.Request{Role: pki.RoleMetad, Name: "m1", Hosts: []string{"127.0.0.1"}})
	must(t, err)
	must(t, pair.Save(dir, "m1"))
	must(t, os.WriteFile(filepath.Join(dir, "ca.crt"), g.ca.CertPEM(), 0o644))
	debug := filepath.Join(dir, "debug.sock")
	p := Peer{ID: "m1", API: closedAddress(t), Raft: closedAddress(t)}
	g.peers = []Peer{p}
	written := Config{ID: "m1", Listen: p.API, RaftListen: p.Raft, Data: filepath.Join(dir, "data"), Peers: g.peers, Bootstrap: true, DebugListen: "unix:" + debug,
		TLS: pki.Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "m1.crt"), Key: filepath.Join(dir, "m1.key")}}
	file := filepath.Join(dir, "metad.yaml")
	must(t, config.Write(file, "", &written, 0o644))
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: unixDialer(debug)}}
	for run := range 2 {
		var cfg Config
		must(t, config.Load(file, &cfg))
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- Run(ctx, cfg, telemetry.Discard()) }()
		g.until("/healthz", func() bool {
			r, err := web.Get("http://metad/healthz")
			if err != nil {
				return false
			}
			r.Body.Close()
			return r.StatusCode == http.StatusOK
		})
		ops := g.operator()
		if run == 0 {
			_, err = ops.CreateDisk(g.ctx(), "kept", 1<<30)
		} else {
			_, err = ops.Disk(g.ctx(), "kept")
		}
		must(t, err)
		stop()
		must(t, <-done)
	}
}

// Without this a member would start with a file that cannot work, and fail later with less to say.
func TestConfigIsChecked(t *testing.T) {
	good := func() Config {
		return Config{ID: "m1", Listen: "127.0.0.1:1", RaftListen: "127.0.0.1:2", Data: "d", TLS: pki.Files{CA: "a", Cert: "b", Key: "c"},
			Peers: []Peer{{ID: "m1", API: "127.0.0.1:1", Raft: "127.0.0.1:2"}}}
	}
	c := good()
	must(t, config.Prepare(&c))
	for name, spoil := range map[string]func(*Config){
		"no id":      func(c *Config) { c.ID = "" },
		"no data":    func(c *Config) { c.Data = "" },
		"bad listen": func(c *Config) { c.Listen = "here" },
		"no tls":     func(c *Config) { c.TLS.Key = "" },
		"no peers":   func(c *Config) { c.Peers = nil },
		"not a peer": func(c *Config) { c.ID = "m2" },
		"two founders": func(c *Config) {
			c.Peers, c.Bootstrap = append(c.Peers, Peer{ID: "m2", API: "a:3", Raft: "a:4"}), true
		},
		"half a signer": func(c *Config) { c.Join.Listen = "127.0.0.1:3" },
		"same peer":     func(c *Config) { c.Peers = append(c.Peers, c.Peers[0], c.Peers[0]) },
		"bad peer":      func(c *Config) { c.Peers[0].Raft = "x" },
		"bad log level": func(c *Config) { c.Log.Level = "loud" },
	} {
		c := good()
		spoil(&c)
		if err := config.Prepare(&c); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s gave %v", name, err)
		}
	}
}

// A member does not start under another's certificate: Raft would count it twice.
func TestMemberNeedsItsOwnCertificate(t *testing.T) {
	g := &group{t: t}
	var err error
	g.ca, err = pki.NewCA(clock.System, "test")
	must(t, err)
	_, err = Open(Options{Config: Config{ID: "m1", Data: t.TempDir()}, Creds: g.creds(pki.RoleMetad, "m2"), Clock: clock.System, Log: telemetry.Discard()})
	if !errors.Is(err, errs.ErrDenied) {
		t.Fatalf("another's certificate gave %v", err)
	}
}

// Schedule: a store reports an old stream, the answer is delayed, meanwhile the owner of
// the present epoch adds an ensemble and writes to it on that store; then the answer is
// carried out. It must not reach the new stream: a drop names epochs below the present.
func TestDropsSpareThePresentEpoch(t *testing.T) {
	m := state.New()
	index := uint64(0)
	do := func(c state.Command) *state.Volume {
		index++
		r := m.Apply(index, c)
		must(t, r.Err)
		return r.Volume
	}
	do(&state.Init{ClusterID: [16]byte{1}, Settings: state.DefaultSettings})
	reg := &state.RegisterHost{Holder: id.Holder{Host: "h1", Number: 1}}
	var candidates []state.EnsembleCandidate
	for range 3 {
		r := newRef()
		reg.Stores = append(reg.Stores, state.RegisterStore{StoreRef: r})
		candidates = append(candidates, state.EnsembleCandidate{StoreRef: r})
	}
	do(reg)
	v := do(&state.CreateVolume{Name: "d", Size: 1 << 30})
	for range 3 { // three opens: e1, e2, e3, each with one ensemble
		v = do(&state.Acquire{Volume: v.ID, By: reg.Holder})
		v = do(&state.AddEnsemble{At: state.At{Volume: v.ID, Epoch: v.Epoch, Version: v.ListVersion}, Candidates: candidates, Want: 3, Fallback: 2})
		v = do(&state.ReplaceList{At: state.At{Volume: v.ID, Epoch: v.Epoch, Version: v.ListVersion}, Keep: id.Ensemble{Epoch: v.Epoch, N: 1}})
	}
	stream := func(e id.Epoch, n uint32) *api.StreamBeat {
		return &api.StreamBeat{Volume: v.ID[:], Ensemble: api.FromEnsembleID(id.Ensemble{Epoch: e, N: n})}
	}
	beat := func(streams ...*api.StreamBeat) []*api.DropStreams {
		out, err := drops(m, &api.HeartbeatRequest{Stores: []*api.StoreBeat{{Ref: api.FromRef(candidates[0].StoreRef), Streams: streams}}})
		must(t, err)
		return out
	}
	if got := beat(stream(3, 1), stream(3, 2)); len(got) != 0 {
		t.Fatalf("streams of the present epoch are dropped: %v", got)
	}
	got := beat(stream(3, 1), stream(2, 1), stream(1, 1))
	if len(got) != 1 || got[0].Epoch != 2 || len(got[0].Keep) != 2 || got[0].Keep[0].Epoch != 3 {
		t.Fatalf("leftovers are dropped as %v", got)
	}
	unknown := &api.StreamBeat{Volume: make([]byte, 16), Ensemble: &api.EnsembleID{Epoch: 1, N: 1}}
	if got := beat(unknown); len(got) != 0 {
		t.Fatalf("a volume that this metad never knew is dropped: %v", got)
	}
}

// A host hears that it must register, or that it was replaced; the second must stop it.
func TestHeartbeatKnowsItsLife(t *testing.T) {
	g := newGroup(t, 1)
	h := g.host("h1", 1)
	h.silence()
	h.holder.Number = 3
	if _, err := h.Heartbeat(g.ctx(), h.beat()); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("a life that never registered got %v", err)
	}
	h.register()
	h.holder.Number = 2
	if _, err := h.Heartbeat(g.ctx(), h.beat()); !errors.Is(err, errs.ErrStaleEpoch) {
		t.Errorf("an old life got %v", err)
	}
	_, err := h.Register(g.ctx(), client.Registration{Holder: id.Holder{Host: "h1", Number: 3}, ClusterID: [16]byte{9}})
	if !errors.Is(err, errs.ErrDenied) {
		t.Errorf("a host of another cluster got %v", err)
	}
}

// Complaints find a dead store before its host's silence does.
func TestTwoComplaintsTakeAStoreDown(t *testing.T) {
	g := newGroup(t, 1)
	h1, h2, h3 := g.host("h1", 1), g.host("h2", 1), g.host("h3", 1)
	state := func() cluster.StoreState {
		if top := h3.Topology(); top != nil {
			s, _ := top.Store(h1.stores[0].Store)
			return s.State
		}
		return 0
	}
	g.until("the store", func() bool { return state() == cluster.StoreUp })
	must(t, h2.ReportStore(g.ctx(), "h2", h1.stores[0], "appends time out"))
	if err := h2.ReportStore(g.ctx(), "h3", h1.stores[0], "x"); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("complaining in another's name gave %v", err)
	}
	must(t, h3.ReportStore(g.ctx(), "h3", h1.stores[0], "appends time out"))
	g.until("it to be down", func() bool { return state() == cluster.StoreDown })
	g.until("it to be up again", func() bool { return state() == cluster.StoreUp })
}

// A store is declared lost only once it is down; then its place is free to be missed.
func TestDeclareLost(t *testing.T) {
	g := newGroup(t, 1)
	ops := g.operator()
	h := g.host("h1", 1)
	g.host("h2", 1)
	s := h.stores[0]
	lose := func() error { return ops.DeclareStoreLost(g.ctx(), s.Store.String(), s.Incarnation.String(), false) }
	if err := lose(); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("losing a store that is up gave %v", err)
	}
	h.silence()
	g.until("the store to be down", func() bool { return lose() == nil })
	stores, err := ops.Stores(g.ctx())
	must(t, err)
	lost := 0
	for _, x := range stores {
		if x.State == "lost" && x.StoreId == s.Store.String() {
			lost++
		}
	}
	if lost != 1 {
		t.Fatalf("stores are %v", stores)
	}
	h.holder.Number++
	if got := h.register(); got.Refused[s.Store] == "" {
		t.Fatal("the lost store was taken back")
	}
}

// Engines keep their epochs and lists while all of metad restarts, and nobody is
// declared down before the new leader has waited.
func TestRestartOfMetadDisturbsNobody(t *testing.T) {
	g := newGroup(t, 3)
	ops := g.operator()
	h1, h2 := g.host("h1", 1), g.host("h2", 2)
	d, err := ops.CreateDisk(g.ctx(), "disk", 1<<30)
	must(t, err)
	v := volumeID(t, d.DiskId)
	a, err := h1.Acquire(g.ctx(), v, h1.holder, client.AcquireOpen)
	must(t, err)
	rec := open(t, g, h1, a.Volume)
	for _, p := range g.peers {
		g.stop(p.ID)
	}
	for _, p := range g.peers {
		g.start(p.ID)
	}
	r, err := h2.Acquire(g.ctx(), v, h2.holder, client.AcquireTakeover)
	must(t, err)
	if r.Refused == nil || r.Refused.Owner != h1.holder || r.Refused.RetryAfter <= 0 || r.Refused.RetryAfter > time.Minute {
		t.Fatalf("right after the restart a takeover got %+v", r)
	}
	next, err := h1.AddEnsemble(g.ctx(), client.AddEnsemble{At: version(rec)})
	must(t, err)
	if len(next.List) != 2 {
		t.Fatalf("the list is %v", next.List)
	}
}
