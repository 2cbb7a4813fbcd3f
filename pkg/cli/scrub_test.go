package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// Scrub answers with the next of f.scrubs; the last one stays.
func (f *fake) Scrub(_ context.Context, scrub [16]byte, target string) (*api.ScrubReply, error) {
	f.scrubbed = append(f.scrubbed, fmt.Sprintf("%x %s", scrub, target))
	if f.err != nil {
		return nil, f.err
	}
	rep := f.scrubs[0]
	if len(f.scrubs) > 1 {
		f.scrubs = f.scrubs[1:]
	}
	if rep == nil {
		return nil, fmt.Errorf("no leader: %w", errs.ErrUnavailable)
	}
	return rep, nil
}

func scrubReply(done bool, p ...*api.ScrubProgress) *api.ScrubReply {
	rep := &api.ScrubReply{Done: done}
	for i, x := range p {
		rep.Stores = append(rep.Stores, &api.ScrubOfStore{StoreId: fmt.Sprintf("st-%d", i+1), Host: fmt.Sprintf("b%d", i+1), Progress: x})
	}
	return rep
}

const scrubID = "000102030405060708090a0b0c0d0e0f"

// A scrub takes long: the wait must outlive a change of leader, ask about the same scrub
// each time, and say by its exit code whether all is well.
func TestScrubWaitsForTheEnd(t *testing.T) {
	x := newTerminal(t)
	m := x.fake.clock.(*clock.Manual)
	ended := make(chan struct{})
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-ended; cancel() }()
		for m.AwaitPending(ctx, 1) == nil {
			m.Advance(time.Second)
		}
	}()
	done := &api.ScrubProgress{State: api.ScrubState_SCRUB_STATE_DONE, Shards: 10, Bytes: 40 << 20, AllShards: 10, AllBytes: 40 << 20, Wrong: 2, Mended: 2}
	half := &api.ScrubProgress{State: api.ScrubState_SCRUB_STATE_RUNNING, Shards: 5, Bytes: 20 << 20, AllShards: 10, AllBytes: 40 << 20, Wrong: 1, Mended: 1}
	away := &api.ScrubProgress{State: api.ScrubState_SCRUB_STATE_AWAY}
	x.fake.scrubs = []*api.ScrubReply{scrubReply(false, half, half), nil, scrubReply(false, done, half), scrubReply(true, done, done, away)}
	out := x.must("scrub data --wait --id " + scrubID)
	for _, s := range x.fake.scrubbed {
		if s != scrubID+" data" {
			t.Errorf("asked for %q", s)
		}
	}
	if len(x.fake.scrubbed) != 4 || !strings.Contains(out, "20 shards, 80 MiB: 4 wrong, 0 missing, 4 mended, 0 cannot be mended now") || !strings.Contains(out, "away") {
		t.Errorf("%d calls, printed\n%s", len(x.fake.scrubbed), out)
	}
	bad := &api.ScrubProgress{State: api.ScrubState_SCRUB_STATE_DONE, Shards: 1, Wrong: 1, Stuck: 1, Problem: "too few"}
	x.fake.scrubs = []*api.ScrubReply{scrubReply(true, bad)}
	if code := x.run("scrub --wait"); code != codeFailed || !strings.Contains(x.err.String(), "ashlar status") {
		t.Errorf("exit code %d, %s", code, x.err.String())
	}
	close(ended)
	v := decode[scrubView](t, func() string { x.run("scrub --wait -o json"); return x.out.String() }())
	if v.Stuck != 1 || !v.Done || v.Stores[0].Problem != "too few" || len(v.ID) != 32 {
		t.Errorf("%+v", v)
	}
}

// Without --wait the id must be told, or nobody could ask how far it is.
func TestScrubTellsItsID(t *testing.T) {
	x := newTerminal(t)
	x.fake.scrubs = []*api.ScrubReply{scrubReply(false, &api.ScrubProgress{})}
	out := x.must("scrub st-1")
	id := strings.Fields(out)[1]
	if len(id) != 32 || !strings.Contains(out, "ashlar scrub st-1 --wait --id "+id) {
		t.Errorf("printed %s", out)
	}
	if code := x.run("scrub --id 12"); code != codeUsage {
		t.Errorf("exit code %d", code)
	}
}

// The line that people look at for hours.
func TestScrubBar(t *testing.T) {
	half := &api.ScrubProgress{State: api.ScrubState_SCRUB_STATE_RUNNING, Bytes: 20 << 20, AllBytes: 40 << 20, Missing: 1}
	for want, rep := range map[string]*api.ScrubReply{
		"":                       nil,
		"waiting for the stores": scrubReply(false, &api.ScrubProgress{}),
		"[================                ] 20 MiB of 40 MiB, 2 MiB/s, 10s left, 1 found": scrubReply(false, half),
	} {
		if got := scrubBar(rep, 10*time.Second); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
