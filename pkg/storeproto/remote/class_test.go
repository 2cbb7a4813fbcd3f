package remote

import (
	"errors"
	"testing"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/storetest"
	"ashlar.dev/pkg/testkit/rpctest"
)

// classy notes the classes of what it is asked for.
type classy struct {
	storeproto.Store
	reads, puts []storeproto.Class
	rooms       []storeproto.Room
}

func (c *classy) Incarnation() id.Incarnation { return storeInc }

func (c *classy) ReadShard(q *storeproto.ReadShard) {
	c.reads = append(c.reads, q.Class)
	q.Err = errs.ErrNotFound
	q.Done(q)
}

func (c *classy) PutShard(p *storeproto.PutShard) {
	c.puts, c.rooms = append(c.puts, p.Class), append(c.rooms, p.Room)
	p.Done(p)
}

// askAll reads and puts once in every class, and waits for the answers.
func askAll(t *testing.T, s storeproto.Store) {
	t.Helper()
	done := make(chan error)
	for k := range storeproto.Class(storeproto.Classes) {
		s.ReadShard(&storeproto.ReadShard{Segment: id.MakeSegment(5, 2), Count: 1, Class: k, Dst: make([]byte, storeproto.BlockSize), Sums: make([]uint32, 1),
			Done: func(q *storeproto.ReadShard) { done <- q.Err }})
		if err := <-done; !errors.Is(err, errs.ErrNotFound) {
			t.Fatalf("read of class %s: %v", k, err)
		}
		p := storetest.Shard(id.MakeSegment(5, 2), id.Generation{Epoch: 3, N: 1}, 4, 2, 9)
		p.Class, p.Done = k, func(p *storeproto.PutShard) { done <- p.Err }
		s.PutShard(p)
		if err := <-done; err != nil {
			t.Fatalf("put of class %s: %v", k, err)
		}
	}
}

// Without this a store could not tell repair from what clients wait for, and a cluster could not
// be updated host by host: one that does not know classes is told of none.
func TestClassesTravel(t *testing.T) {
	for _, x := range []struct {
		name    string
		version uint16
	}{{"now", 0}, {"older server", 1}} {
		t.Run(x.name, func(t *testing.T) {
			w := rpctest.NewWorld(t)
			store := &classy{}
			s := serve(t, w, rpctest.Transports[0], ServiceConfig{Lookup: lookup(store), versionMax: x.version}, patient)
			askAll(t, s.peer("a", nil).Store(storeID, storeInc)) // the first request waits for the connection
			askAll(t, s.peer("a", nil).Store(storeID, storeInc))
			for k := range storeproto.Class(storeproto.Classes) {
				want := k
				if x.version == 1 {
					want = storeproto.ClassDemand
				}
				last := len(store.reads) - storeproto.Classes + int(k)
				if store.reads[last] != want || store.puts[last] != want {
					t.Errorf("class %s arrived as %s and %s", k, store.reads[last], store.puts[last])
				}
			}
		})
	}
}

// What follows a head is a class that is not demand, or nothing: one message has one encoding.
func TestClassIsChecked(t *testing.T) {
	for b, good := range map[byte]bool{0: false, 1: true, storeproto.Classes - 1: true, storeproto.Classes: false, 255: false} {
		err := decode("test", []byte{b}, func(r *codec.Reader) { readClass(r) })
		if good != (err == nil) {
			t.Errorf("class %d: %v", b, err)
		}
	}
}

// Without this a store could not keep room back for what gives space back; one that does not know of it is
// told nothing, and takes all as before.
func TestRoomTravels(t *testing.T) {
	for _, version := range []uint16{0, 2} {
		w := rpctest.NewWorld(t)
		store := &classy{}
		s := serve(t, w, rpctest.Transports[0], ServiceConfig{Lookup: lookup(store), versionMax: version}, patient)
		peer := s.peer("a", nil).Store(storeID, storeInc)
		askAll(t, peer) // the first request waits for the connection
		for room := range storeproto.Room(storeproto.Rooms) {
			done := make(chan error)
			p := storetest.Shard(id.MakeSegment(5, 2), id.Generation{Epoch: 3, N: 1}, 4, 2, 9)
			p.Class, p.Room, p.Done = storeproto.ClassPack, room, func(p *storeproto.PutShard) { done <- p.Err }
			peer.PutShard(p)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			wanted := room
			if version == 2 {
				wanted = storeproto.RoomPack
			}
			if got := store.rooms[len(store.rooms)-1]; got != wanted || store.puts[len(store.puts)-1] != storeproto.ClassPack {
				t.Errorf("version %d: room for %s arrived as %s", version, room, got)
			}
		}
	}
}

// One message has one encoding, and nothing that nobody knows is taken for something.
func TestUseIsChecked(t *testing.T) {
	for b, good := range map[byte]bool{0: false, 1: true, 0x10: true, 0x34: true, 0x05: false, 0x40: false, 255: false} {
		err := decode("test", []byte{b}, func(r *codec.Reader) { readUse(r) })
		if good != (err == nil) {
			t.Errorf("use %#x: %v", b, err)
		}
	}
}
