package server

import (
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/id"
)

// Heartbeats and inventories come from other hosts: whatever is in them is read within the limits or refused, and
// what is committed of an inventory can be decoded by all members. Seeded mutations, for a fuzzer of this room builds for half a minute.
func TestWhateverHostsSendIsReadOrRefused(t *testing.T) {
	v, ref := id.Volume{1}, &api.StoreRef{Store: make([]byte, 16), Incarnation: make([]byte, 16)}
	seeds := []proto.Message{
		&api.HeartbeatRequest{Holder: &api.Holder{Host: "b1", Number: 1}, Memory: []*api.MemoryUse{{Name: "x", LimitBytes: 1}},
			Volumes: []*api.VolumeBeat{{Volume: v[:], Epoch: 1, Looks: []*api.Lost{{}}}},
			Stores:  []*api.StoreBeat{{Ref: ref, Repairs: []*api.RepairBeat{{Pg: 1 << 20, Version: 2}}, Stuck: []uint64{1, 2}}}},
		&api.TellInventoryRequest{Store: ref, Last: true, Volumes: []*api.VolumeOnStore{{Volume: v[:], Fence: 3}}, Groups: []*api.GroupOnStore{{}}, Known: []*api.KnownGroup{{}}},
	}
	r := rand.New(rand.NewPCG(1, 2))
	read := 0
	for _, seed := range seeds {
		whole, err := proto.Marshal(seed)
		if err != nil {
			t.Fatal(err)
		}
		for range 4000 {
			read += readWhatever(t, mutated(r, whole))
		}
	}
	if read < 100 {
		t.Errorf("only %d mutations were read at all", read)
	}
}

// mutated is b with some bytes changed, doubled, cut out.
func mutated(r *rand.Rand, b []byte) []byte {
	b = append([]byte(nil), b...)
	for range r.IntN(4) {
		i := r.IntN(len(b) + 1)
		j := min(len(b), i+r.IntN(9))
		switch r.IntN(4) {
		case 0:
			b = append(b[:i:i], b[j:]...)
		case 1:
			b = append(b[:j:j], b[i:]...)
		default:
			for k := i; k < j; k++ {
				b[k] = byte(r.Uint32()) >> r.IntN(8)
			}
		}
	}
	return b
}

func readWhatever(t *testing.T, b []byte) (read int) {
	t.Helper()
	var beat api.HeartbeatRequest
	if proto.Unmarshal(b, &beat) == nil {
		if got, err := readBeat(&beat); err == nil {
			read++
			if len(got.Stores) > state.StoresPerHostMax || len(got.Volumes) > state.VolumesMax {
				t.Errorf("a beat of %d stores and %d disks was read", len(got.Stores), len(got.Volumes))
			}
		}
	}
	var inventory api.TellInventoryRequest
	if proto.Unmarshal(b, &inventory) == nil {
		if c, err := readInventory(&inventory); err == nil {
			read++
			if _, err := state.Decode(state.Encode(c)); err != nil {
				t.Errorf("an inventory was read that cannot be committed: %v (%x)", err, b)
			}
		}
	}
	return read
}
