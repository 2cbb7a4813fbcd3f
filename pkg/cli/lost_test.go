package cli

import (
	"context"
	"strings"
	"testing"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
)

// LostRanges answers with the next of f.losts; the last one stays.
func (f *fake) LostRanges(_ context.Context, disk string, q cluster.Look) (*api.LostRangesReply, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.looked = append(f.looked, q)
	rep := f.losts[0]
	if len(f.losts) > 1 {
		f.losts = f.losts[1:]
	}
	return rep, nil
}

// The list says what is lost, what may come back and how it goes on; the exit code says
// whether something is lost.
func TestLostRangesAreListed(t *testing.T) {
	x := newTerminal(t)
	x.fake.losts = []*api.LostRangesReply{{Name: "db", DiskId: "d-1", OwnerHost: "b1", Lost: &api.Lost{LostBytes: 8192, AwayBytes: 4096, RangesTotal: 9, Next: 65536,
		Ranges: []*api.LostRange{{Offset: 4096, Length: 8192}, {Offset: 16384, Length: 4096, Away: true}}}}}
	if code := x.run("disk lost db --from 4096"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if q := x.fake.looked[0]; q.From != 4096 || q.ID == [16]byte{} {
		t.Errorf("asked %+v", q)
	}
	for _, want := range []string{"DISK  OFFSET  LENGTH         STATE", "db    4096    8192    8 KiB  lost", "db    16384   4096    4 KiB  away", "(7 more: ashlar disk lost db --from 65536)"} {
		if !strings.Contains(x.out.String(), want) {
			t.Errorf("no %q in %s", want, x.out.String())
		}
	}
	x.run("disk lost db --from 4GiB")
	if q := x.fake.looked[1]; q.From != 4<<30 {
		t.Errorf("asked from %d", q.From)
	}
	x.fake.losts = []*api.LostRangesReply{{Name: "db", OwnerHost: "b1", Lost: &api.Lost{}}}
	if out := x.must("disk lost db"); !strings.Contains(out, "db: nothing is lost") {
		t.Error(out)
	}
	if out := x.must("disk lost db -o json"); !strings.Contains(out, `"ranges": []`) {
		t.Error(out)
	}
}
