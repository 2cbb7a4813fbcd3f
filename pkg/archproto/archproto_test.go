package archproto

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/segment"
	"ashlar.dev/pkg/testkit/rpctest"
)

// owner holds segments 1 to n with one slot each; in steps of planned at a time.
type owner struct {
	mu      sync.Mutex
	n, step id.Sequence
	walks   int
	spoil   bool
}

func (o *owner) PlanSnapshot(_ context.Context, q PlanQuery) (*Plan, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if q.Snapshot != (id.Snapshot{1}) {
		return nil, fmt.Errorf("host b2 has it: %w", errs.ErrConflict)
	}
	o.walks++
	p := &Plan{Root: blockmap.Root{Location: id.MakeLocation(id.MakeSegment(1, 1), 3), Height: 2}, Blocks: 1000, Watermark: o.n}
	for s := q.After + 1; s <= o.n; s++ {
		if p.More = len(p.Held) == int(o.step); p.More {
			break
		}
		h := Held{Segment: id.MakeSegment(s, 1)}
		if s > q.Base {
			h.Slots = &segment.SlotSet{}
			h.Slots.Add(uint16(s % 4096))
		}
		p.Held = append(p.Held, h)
	}
	return p, nil
}

func (o *owner) ReadSnapshot(_ context.Context, q ReadQuery, dst []byte) (e []segment.Entry, sums []uint32, err error) {
	for i, n := range q.Slots.Slots() {
		b := dst[i*block.Size:][:block.Size]
		b[0], b[4095] = byte(n), 1
		e, sums = append(e, segment.MakeData(block.LBA(n))), append(sums, codec.CRC(b))
		if o.spoil {
			b[7]++
		}
	}
	return e, sums, nil
}

func connect(t *testing.T, o Owner, role pki.Role) *Peer {
	t.Helper()
	w := rpctest.NewWorld(t)
	service, err := NewService(ServiceConfig{Owner: o, Clock: clock.System})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rpc.NewServer(rpc.ServerConfig{Self: rpctest.Identity("b1"), Services: []rpc.Service{service}, Clock: clock.System, Log: rpctest.Log(),
		TLS: w.Credentials(pki.RoleBlockd, "b1").Server(pki.Expect{Roles: []pki.Role{pki.RoleBlockd, pki.RoleSnapshotd}})})
	if err != nil {
		t.Fatal(err)
	}
	l := w.Listen(rpctest.Transports[0])
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	creds := w.Credentials(role, "x")
	p, err := NewPeer(PeerConfig{Host: "b1", Address: l.Addr().String(), Self: creds.Self(), Clock: clock.System, Log: rpctest.Log(),
		LiveTLS: func() *tls.Config { return creds.Client(pki.Expect{Roles: []pki.Role{pki.RoleBlockd}}) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// Without this a plan would lose segments between its pages, or be found anew for each.
func TestPlanComesPageByPage(t *testing.T) {
	o := &owner{n: 40_000, step: 39_000}
	p := connect(t, o, pki.RoleSnapshotd)
	q := PlanQuery{Volume: id.Volume{1}, Snapshot: id.Snapshot{1}, Base: 35_000}
	pages := 0
	for more := true; more; pages++ {
		got, err := p.Plan(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range got.Held {
			if q.After++; h.Segment.Sequence() != q.After || (h.Slots == nil) != (q.After <= q.Base) {
				t.Fatalf("segment %s after %d", h.Segment, q.After-1)
			}
		}
		more = got.More
	}
	if q.After != o.n || o.walks != 2 || pages < 6 {
		t.Fatalf("%d segments in %d pages of %d walks", q.After, pages, o.walks)
	}
	if _, err := p.Plan(t.Context(), PlanQuery{Snapshot: id.Snapshot{2}}); !errors.Is(err, errs.ErrConflict) {
		t.Fatal(err)
	}
}

// Without this bytes that were spoiled on the way would be archived.
func TestSlotsAreCheckedAgain(t *testing.T) {
	o := &owner{n: 1}
	p := connect(t, o, pki.RoleSnapshotd)
	q := ReadQuery{Volume: id.Volume{1}, Snapshot: id.Snapshot{1}, Segment: id.MakeSegment(7, 1), Slots: &segment.SlotSet{}}
	for _, n := range []uint16{0, 63, 64, 4095} {
		q.Slots.Add(n)
	}
	got, err := p.Read(t.Context(), q, nil)
	if err != nil || len(got.Entries) != 4 || got.Entries[3].LBA() != 4095 || got.Data[4*4096-1] != 1 || got.Data[2*4096] != 64 {
		t.Fatalf("%+v %v", got.Entries, err)
	}
	o.spoil = true
	if _, err := p.Read(t.Context(), q, nil); !errors.Is(err, errs.ErrCorrupt) {
		t.Fatal(err)
	}
}

// Without this whoever has a certificate could read every disk.
func TestOnlySnapshotdIsServed(t *testing.T) {
	p := connect(t, &owner{n: 1}, pki.RoleBlockd)
	if _, err := p.Plan(t.Context(), PlanQuery{Snapshot: id.Snapshot{1}}); !errors.Is(err, errs.ErrDenied) && !errors.Is(err, errs.ErrUnavailable) {
		t.Fatal(err)
	}
}

// Without this a peer's bytes could make the other side crash or swell.
func FuzzMessages(f *testing.F) {
	set := &segment.SlotSet{}
	set.Add(5)
	plan := &Plan{Blocks: 9, Watermark: 30, Held: []Held{{Segment: id.MakeSegment(3, 1)}, {id.MakeSegment(7, 1), set}}, More: true}
	f.Add(plan.append(nil))
	f.Add((&ReadQuery{Segment: id.MakeSegment(3, 1), Slots: set}).append(nil))
	f.Add((&PlanQuery{Base: 7}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Plan
		if codec.Decode("fuzz", b, func(r *codec.Reader) { p.read(r, 0) }) == nil && !bytes.Equal(p.append(nil), b) {
			t.Error("another plan than was read")
		}
		var q ReadQuery
		if codec.Decode("fuzz", b, q.read) == nil && !bytes.Equal(q.append(nil), b) {
			t.Error("another question than was read")
		}
		var x PlanQuery
		if codec.Decode("fuzz", b, x.read) == nil && !reflect.DeepEqual(x.append(nil), b) {
			t.Error("another question than was read")
		}
		var s Slots
		_ = codec.Decode("fuzz", b, func(r *codec.Reader) { s.readHead(r, len(b)/12) })
	})
}
