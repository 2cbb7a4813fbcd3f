package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// member is a metad that answers as the test says.
type member struct {
	api.UnimplementedBlockdServer
	api.UnimplementedClusterServer
	address string
	grpc    *grpc.Server

	mu     sync.Mutex
	calls  int
	answer func(ctx context.Context) error // nil: success
	top    chan *api.Topology
}

func newMember(t *testing.T) *member {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &member{address: ln.Addr().String(), grpc: grpc.NewServer(), top: make(chan *api.Topology, 8)}
	api.RegisterBlockdServer(m.grpc, m)
	api.RegisterClusterServer(m.grpc, m)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.grpc.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		m.grpc.Stop()
		<-done
	})
	return m
}

func (m *member) called(ctx context.Context) error {
	m.mu.Lock()
	m.calls++
	answer := m.answer
	m.mu.Unlock()
	if answer == nil {
		return nil
	}
	return answer(ctx)
}

func (m *member) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

func (m *member) GetDisk(ctx context.Context, _ *api.GetDiskRequest) (*api.Disk, error) {
	return &api.Disk{Name: m.address}, m.called(ctx)
}

var someVolume = &api.VolumeRecord{Volume: make([]byte, 16), Epoch: 7}

func (m *member) AddEnsemble(ctx context.Context, _ *api.AddEnsembleRequest) (*api.VolumeRecord, error) {
	return someVolume, m.called(ctx)
}

func (m *member) Heartbeat(ctx context.Context, _ *api.HeartbeatRequest) (*api.HeartbeatReply, error) {
	return &api.HeartbeatReply{}, m.called(ctx)
}

func (m *member) WatchTopology(_ *api.WatchTopologyRequest, s grpc.ServerStreamingServer[api.Topology]) error {
	for {
		select {
		case x := <-m.top:
			if x == nil {
				return notLeader("")(s.Context())
			}
			if err := s.Send(x); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func notLeader(leader string) func(context.Context) error {
	return func(context.Context) error {
		return api.ToStatus(errs.ErrUnavailable, &api.ErrorDetail{NotLeader: true, LeaderApi: leader})
	}
}

func passing(context.Context) error {
	return api.ToStatus(errs.ErrUnavailable, &api.ErrorDetail{Retry: true})
}

func testCtx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func operator(t *testing.T, members ...*member) *Cluster {
	t.Helper()
	c, err := NewCluster(Options{Addresses: addresses(members)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func engine(t *testing.T, members ...*member) *Blockd {
	t.Helper()
	b, err := NewBlockd(Options{Addresses: addresses(members)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func addresses(members []*member) (out []string) {
	for _, m := range members {
		out = append(out, m.address)
	}
	return out
}

// A follower's word is followed, also to a member the client was not told of.
func TestFollowsTheLeader(t *testing.T) {
	leader, follower := newMember(t), newMember(t)
	follower.answer = notLeader(leader.address)
	c := operator(t, follower)
	for range 3 {
		d, err := c.Disk(testCtx(t), "x")
		if err != nil || d.Name != leader.address {
			t.Fatalf("answered by %v: %v", d, err)
		}
	}
	if follower.count() != 1 {
		t.Errorf("the follower was asked %d times", follower.count())
	}
}

// While there is no leader, or a member is dead, calls that may be repeated are.
func TestRepeatsWhatMayBeRepeated(t *testing.T) {
	dead, other := newMember(t), newMember(t)
	dead.grpc.Stop()
	tries := 0
	other.answer = func(ctx context.Context) error {
		if tries++; tries < 4 {
			return []func(context.Context) error{notLeader(""), passing, notLeader(other.address)}[tries-1](ctx)
		}
		return nil
	}
	if _, err := operator(t, dead, other).Disk(testCtx(t), "x"); err != nil {
		t.Fatal(err)
	}
}

// A change of a list whose outcome is unknown must not be sent again by itself: the
// first may have been carried out, and the engine would take the refusal of the second
// for the truth. What a follower refused was not done.
func TestUnknownOutcomeIsTold(t *testing.T) {
	leader, follower := newMember(t), newMember(t)
	follower.answer = notLeader(leader.address)
	b := engine(t, follower, leader)
	if _, err := b.AddEnsemble(testCtx(t), AddEnsemble{}); err != nil {
		t.Fatalf("redirected: %v", err)
	}
	leader.answer = passing
	before := leader.count()
	if _, err := b.AddEnsemble(testCtx(t), AddEnsemble{}); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("an unknown outcome gave %v", err)
	}
	if leader.count() != before+1 {
		t.Errorf("it was sent %d times", leader.count()-before)
	}
}

// The leader's answer is an answer: refusals are not asked for again, and bring the
// record in force.
func TestRefusalsAreFinal(t *testing.T) {
	leader := newMember(t)
	b := engine(t, leader)
	for _, class := range []error{errs.ErrStaleEpoch, errs.ErrConflict, errs.ErrNotFound, errs.ErrInvalid, errs.ErrNoSpace, errs.ErrDenied, errs.ErrUnavailable} {
		leader.answer = func(context.Context) error {
			return api.ToStatus(fmt.Errorf("no: %w", class), &api.ErrorDetail{Current: someVolume})
		}
		before := leader.count()
		_, err := b.AddEnsemble(testCtx(t), AddEnsemble{})
		if !errors.Is(err, class) || leader.count() != before+1 {
			t.Errorf("%v: got %v after %d calls", class, err, leader.count()-before)
		}
		if v := Current(err); v == nil || v.Epoch != 7 {
			t.Errorf("%v: the record is %+v", class, v)
		}
	}
}

// A leader that hangs must not be asked first for ever: heartbeats have little time, and
// a host whose heartbeats all go there is declared down.
func TestHangingLeaderIsLeft(t *testing.T) {
	hung, other := newMember(t), newMember(t)
	hung.answer = func(ctx context.Context) error { <-ctx.Done(); return nil }
	b := engine(t, hung, other)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Heartbeat(ctx, Heartbeat{}); !errors.Is(err, errs.ErrTimeout) {
		t.Fatalf("a hanging leader gave %v", err)
	}
	if _, err := b.Heartbeat(testCtx(t), Heartbeat{}); err != nil {
		t.Fatal(err)
	}
}

// The caller's time is the limit, and the error says what was in the way.
func TestCallEndsWithItsContext(t *testing.T) {
	m := newMember(t)
	m.answer = notLeader("")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := operator(t, m).Disk(ctx, "x"); !errors.Is(err, errs.ErrUnavailable) {
		t.Fatalf("without a leader: %v", err)
	}
	gone, stop := context.WithCancel(context.Background())
	stop()
	if _, err := operator(t, m).Disk(gone, "x"); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
}

// Deleting again after a lost answer finds nothing, and that is what was wanted.
func TestDeleteSurvivesALostAnswer(t *testing.T) {
	leader := newMember(t)
	c := operator(t, leader)
	tries := 0
	leader.answer = func(ctx context.Context) error {
		switch tries++; tries {
		case 1: // GetDisk
			return nil
		case 2: // the first delete
			return passing(ctx)
		}
		return api.ToStatus(errs.ErrNotFound, nil)
	}
	if _, err := c.DeleteDisk(testCtx(t), "x", Deletion{}); err != nil {
		t.Fatal(err)
	}
	tries = 0
	leader.answer = func(context.Context) error { return api.ToStatus(errs.ErrNotFound, nil) }
	if _, err := c.DeleteDisk(testCtx(t), "x", Deletion{}); !errors.Is(err, errs.ErrNotFound) {
		t.Fatalf("deleting nothing gave %v", err)
	}
}

func (m *member) DeleteDisk(ctx context.Context, _ *api.DeleteDiskRequest) (*api.DeleteDiskReply, error) {
	return &api.DeleteDiskReply{}, m.called(ctx)
}

// Versions only rise for a listener, whoever brings them, and a stream's end is healed.
func TestTopologyOnlyRises(t *testing.T) {
	m := newMember(t)
	b := engine(t, m)
	seen := make(chan uint64, 16)
	stop := b.OnTopology(func(x *cluster.Topology) { seen <- x.Version })
	defer stop()
	ctx := testCtx(t)
	next := func(want uint64) {
		t.Helper()
		select {
		case got := <-seen:
			if got != want {
				t.Fatalf("version %d, want %d", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("version %d did not come", want)
		}
	}
	m.top <- &api.Topology{Version: 5}
	next(5)
	m.top <- &api.Topology{Version: 4} // of a leader that was replaced
	m.top <- nil                       // the stream ends
	m.top <- &api.Topology{Version: 6}
	next(6)
	b.top.offer((&cluster.Topology{Version: 6}).Index())
	b.top.offer((&cluster.Topology{Version: 8}).Index())
	next(8)
	late := make(chan uint64, 1)
	b.OnTopology(func(x *cluster.Topology) { late <- x.Version })()
	if got := <-late; got != 8 || b.Topology().Version != 8 {
		t.Fatalf("a late listener hears %d", got)
	}
	if len(seen) != 0 {
		t.Fatal("a version was told twice")
	}
}

// What a peer sends may be anything.
func TestNonsenseFromAPeerIsAnError(t *testing.T) {
	for name, x := range map[string]*api.Topology{
		"short id":   {Stores: []*api.StoreInfo{{Ref: &api.StoreRef{Store: []byte{1}}}}},
		"no ref":     {Stores: []*api.StoreInfo{{}}},
		"big group":  {Pgs: []*api.PlacementGroup{{Number: 1 << 13, Versions: []*api.PGVersion{{}}}}},
		"no version": {Pgs: []*api.PlacementGroup{{Number: 1}}},
		"width":      {Pgs: []*api.PlacementGroup{{Number: 1, Versions: []*api.PGVersion{{K: 4, M: 2}}}}},
	} {
		if _, err := x.Value(); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s gave %v", name, err)
		}
	}
	if _, err := (&api.VolumeRecord{Volume: []byte{1}}).Value(); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("a short volume id gave %v", err)
	}
}

// A record survives the wire whole.
func TestVolumeCrossesTheWire(t *testing.T) {
	ref := cluster.StoreRef{Store: id.Store{1}, Incarnation: id.Incarnation{2}}
	v := &cluster.Volume{ID: id.Volume{3}, Name: "d", Size: 4096, Created: time.UnixMilli(5).UTC(), Epoch: 6, Owner: id.Holder{Host: "h", Number: 7},
		OpenComplete: true, ListVersion: 8, Prior: []id.Host{"g"}, Deleted: true,
		List: []cluster.Ensemble{{ID: id.Ensemble{Epoch: 6, N: 1}, Stores: []cluster.StoreRef{ref}, Closed: true, From: 1, To: 2, MetaFrom: 3, MetaTo: 4,
			Holders: []cluster.StoreRef{ref, ref}, LossAccepted: true}},
		Checkpoint: &cluster.Checkpoint{Epoch: 6, Meta: 9, Covered: 10, Opaque: []byte("o")},
		Losses:     []cluster.Loss{{Ensemble: id.Ensemble{Epoch: 1, N: 2}, Lost: []cluster.StoreRef{ref}, At: time.UnixMilli(11).UTC(), By: "ann"}},
		Spans:      []cluster.Span{{Epoch: 6, First: 12, End: 13}},
		Lent:       []cluster.Restored{{Manifest: "m", Segments: 14, First: 15, PGs: []id.PG{16}}}}
	got, err := api.FromVolume(v).Value()
	if err != nil || !reflect.DeepEqual(got, v) {
		t.Fatalf("%+v came back as %+v (%v)", v, got, err)
	}
}
