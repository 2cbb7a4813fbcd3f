package api

import (
	"time"

	"ashlar.dev/pkg/cluster"
)

// textMax bounds what a peer's words may be.
const textMax = 256

func text(s string) string { return s[:min(len(s), textMax)] }

func fromTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func toTime(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// FromCare makes the message of c.
func FromCare(c cluster.Care) *Care {
	return &Care{Wrong: c.Wrong, Missing: c.Missing, Mended: c.Mended, Stuck: c.Stuck, Problem: text(c.Problem), Flagged: c.Flagged,
		PassBeganUnixMs: fromTime(c.PassBegan), PassEndedUnixMs: fromTime(c.PassEnded), PassShards: c.PassShards, PassBytes: c.PassBytes}
}

// Value reads it; of nil the zero value.
func (x *Care) Value() cluster.Care {
	return cluster.Care{Wrong: x.GetWrong(), Missing: x.GetMissing(), Mended: x.GetMended(), Stuck: x.GetStuck(), Problem: text(x.GetProblem()), Flagged: x.GetFlagged(),
		PassBegan: toTime(x.GetPassBeganUnixMs()), PassEnded: toTime(x.GetPassEndedUnixMs()), PassShards: x.GetPassShards(), PassBytes: x.GetPassBytes()}
}

// FromScrub makes the message of p.
func FromScrub(p cluster.ScrubProgress) *ScrubProgress {
	return &ScrubProgress{ScrubId: p.ID[:], State: ScrubState(p.State), Shards: p.Shards, Bytes: p.Bytes, AllShards: p.AllShards, AllBytes: p.AllBytes,
		Wrong: p.Wrong, Missing: p.Missing, Mended: p.Mended, Stuck: p.Stuck, NotCompared: p.NotCompared, Problem: text(p.Problem)}
}

// Value reads it.
func (x *ScrubProgress) Value() (cluster.ScrubProgress, error) {
	n, err := ScrubID(x.GetScrubId())
	return cluster.ScrubProgress{ID: n, State: cluster.ScrubState(max(0, min(x.GetState(), ScrubState_SCRUB_STATE_AWAY))), Shards: x.GetShards(), Bytes: x.GetBytes(),
		AllShards: x.GetAllShards(), AllBytes: x.GetAllBytes(), Wrong: x.GetWrong(), Missing: x.GetMissing(), Mended: x.GetMended(), Stuck: x.GetStuck(),
		NotCompared: x.GetNotCompared(), Problem: text(x.GetProblem())}, err
}

// ScrubID reads the 16 bytes that name a scrub.
func ScrubID(b []byte) ([16]byte, error) { return sixteen("scrub id", b) }
