package policy

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// 2026-11-22 was a Sunday.
func at(day, hour, minute int) time.Time {
	return time.Date(2026, 11, day, hour, minute, 0, 0, time.UTC)
}

// Without this a run would come a day late, twice, or on a day that nobody asked for.
func TestRunsAreDueWhenTheRulesSay(t *testing.T) {
	weekdays := Days(1<<time.Monday | 1<<time.Friday)
	for _, c := range []struct {
		rules            Rules
		now, last, after time.Time
	}{
		{Rules{At: []uint16{120}, Days: EveryDay}, at(22, 1, 59), at(21, 2, 0), at(22, 2, 0)},
		{Rules{At: []uint16{120}, Days: EveryDay}, at(22, 2, 0), at(22, 2, 0), at(23, 2, 0)},
		{Rules{At: []uint16{0, 120, 1439}, Days: EveryDay}, at(22, 23, 59), at(22, 23, 59), at(23, 0, 0)},
		{Rules{At: []uint16{0, 120, 1439}, Days: EveryDay}, at(22, 0, 30), at(22, 0, 0), at(22, 2, 0)},
		{Rules{At: []uint16{600}, Days: weekdays}, at(22, 12, 0), at(20, 10, 0), at(23, 10, 0)},
		{Rules{At: []uint16{600}, Days: weekdays}, at(23, 9, 59), at(20, 10, 0), at(23, 10, 0)},
		{Rules{At: []uint16{600}, Days: 1 << time.Sunday}, at(22, 9, 0), at(15, 10, 0), at(22, 10, 0)},
		{Rules{At: []uint16{600}, Days: 1 << time.Sunday}, at(22, 10, 0), at(22, 10, 0), at(29, 10, 0)},
		{Rules{At: []uint16{120}, Days: EveryDay}, at(22, 3, 30).In(time.FixedZone("", 7200)), at(22, 2, 0), at(23, 2, 0)},
	} {
		if got := c.rules.LastDue(c.now); !got.Equal(c.last) {
			t.Errorf("%+v at %s: last due %s, want %s", c.rules, c.now, got, c.last)
		}
		if got := c.rules.NextDue(c.now); !got.Equal(c.after) {
			t.Errorf("%+v at %s: next due %s, want %s", c.rules, c.now, got, c.after)
		}
	}
}

// Without this no time would be due, or one forgotten between two looks.
func TestDueTimesFollowOneAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Rules{Days: Days(rapid.IntRange(1, 127).Draw(t, "days"))}
		for m := range uint16(24) {
			if rapid.IntRange(0, 6).Draw(t, "at") == 0 {
				r.At = append(r.At, m*60+uint16(rapid.IntRange(0, 59).Draw(t, "minute")))
			}
		}
		if len(r.At) == 0 {
			r.At = []uint16{0}
		}
		now := at(1, 0, 0).Add(time.Duration(rapid.Int64Range(0, 40*24*3600).Draw(t, "now")) * time.Second)
		last, next := r.LastDue(now), r.NextDue(now)
		if last.After(now) || !next.After(now) {
			t.Fatalf("at %s: last %s, next %s", now, last, next)
		}
		if !r.NextDue(last).Equal(next) || !r.LastDue(next).Equal(next) || !r.LastDue(next.Add(-time.Second)).Equal(last) {
			t.Fatalf("at %s: after last %s comes %s, not %s", now, last, r.NextDue(last), next)
		}
	})
}

// Without this a disk whose runs fail would lose its last good snapshot, or snapshots would stay for ever.
func TestExpiredAreTheOldAndTheManyButNeverTheLast(t *testing.T) {
	made := func(days ...int) (out []Made) {
		for _, d := range days {
			out = append(out, Made{id.Volume{1}, id.Snapshot{byte(d)}, at(d, 2, 0)})
		}
		return out
	}
	for _, c := range []struct {
		rules Rules
		made  []Made
		now   time.Time
		want  []byte
	}{
		{Rules{Retain: 48 * time.Hour}, made(19, 20, 21, 22), at(22, 2, 0), []byte{19, 20}},
		{Rules{Retain: 48 * time.Hour}, made(19, 20, 21, 22), at(22, 1, 0), []byte{19}},
		{Rules{Retain: 48 * time.Hour}, made(1, 2), at(22, 2, 0), []byte{1}}, // runs have failed since
		{Rules{Keep: 2}, made(22, 19, 21, 20), at(22, 2, 0), []byte{19, 20}},
		{Rules{Keep: 3, Retain: 48 * time.Hour}, made(19, 20, 21, 22), at(22, 2, 0), []byte{19, 20}},
		{Rules{Keep: 1, Retain: time.Hour}, made(22), at(29, 2, 0), nil},
	} {
		got := c.rules.Expired(c.made, c.now)
		var ids []byte
		for _, m := range got {
			ids = append(ids, m.Snapshot[0])
		}
		if string(ids) != string(c.want) {
			t.Errorf("%+v: %v expire, want %v", c.rules, ids, c.want)
		}
	}
	two := append(made(1), Made{id.Volume{2}, id.Snapshot{9}, at(2, 2, 0)})
	if got := (&Rules{Keep: 1}).Expired(two, at(22, 2, 0)); len(got) != 0 {
		t.Errorf("the last of a disk expires because of another disk: %v", got)
	}
}

// Without this a policy could be made that never runs, or never deletes.
func TestRulesThatMakeNoSenseAreRefused(t *testing.T) {
	good := Rules{At: []uint16{120}, Days: EveryDay, Keep: 7}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Rules{
		"no time": {Days: EveryDay, Keep: 1}, "no day": {At: []uint16{1}, Keep: 1}, "for ever": {At: []uint16{1}, Days: EveryDay},
		"25 o'clock": {At: []uint16{1500}, Days: EveryDay, Keep: 1}, "twice": {At: []uint16{1, 1}, Days: EveryDay, Keep: 1}, "unsorted": {At: []uint16{2, 1}, Days: EveryDay, Keep: 1},
		"an eighth day": {At: []uint16{1}, Days: 1 << 7, Keep: 1}, "too many": {At: []uint16{1}, Days: EveryDay, Keep: 201}, "negative": {At: []uint16{1}, Days: EveryDay, Retain: -1, Keep: 1},
	} {
		if err := r.Check(); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
