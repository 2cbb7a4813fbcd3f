// Package policy says when snapshots of a policy are due and which of those it made have had
// their time. It is a function of its arguments: metad's leader asks it, with the time, and
// commits what follows (metad/server/policies.go).
package policy

import (
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// The limits of one policy.
const (
	TimesMax  = 24
	DisksMax  = 1000
	KeepMax   = 200 // below the limit of snapshots of a disk
	RetainMax = 10 * 365 * 24 * time.Hour
)

// Days of the week, as a set: bit n is time.Weekday n.
type Days uint8

// EveryDay has all of them.
const EveryDay Days = 1<<7 - 1

// Has tells whether a day is in the set.
func (d Days) Has(w time.Weekday) bool { return d&(1<<w) != 0 }

// Rules say when, and for how long. Times are UTC.
type Rules struct {
	At     []uint16 // minutes of the day, ascending
	Days   Days
	Retain time.Duration // how long a snapshot is kept; 0: whatever its age
	Keep   int           // how many of a disk are kept; 0: whatever their number
}

// Check refuses rules that make no sense, or would keep everything for ever.
func (r *Rules) Check() error {
	switch {
	case len(r.At) == 0 || len(r.At) > TimesMax:
		return fmt.Errorf("%d times of the day, want 1 to %d: %w", len(r.At), TimesMax, errs.ErrInvalid)
	case !slices.IsSorted(r.At) || len(slices.Compact(slices.Clone(r.At))) != len(r.At) || r.At[len(r.At)-1] >= 24*60:
		return fmt.Errorf("times of the day %v: %w", r.At, errs.ErrInvalid)
	case r.Days == 0 || r.Days > EveryDay:
		return fmt.Errorf("no day of the week: %w", errs.ErrInvalid)
	case r.Retain == 0 && r.Keep == 0:
		return fmt.Errorf("neither how long snapshots are kept nor how many: %w", errs.ErrInvalid)
	case r.Retain < 0 || r.Retain > RetainMax || r.Keep < 0 || r.Keep > KeepMax:
		return fmt.Errorf("keep %d snapshots for %s; at most %d, for %s: %w", r.Keep, r.Retain, KeepMax, RetainMax, errs.ErrInvalid)
	}
	return nil
}

// LastDue is the latest time at or before now at which a run was due; zero: none in the last eight days.
func (r *Rules) LastDue(now time.Time) time.Time {
	now = now.UTC()
	day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	for range 8 {
		for _, m := range slices.Backward(r.At) {
			if t := day.Add(time.Duration(m) * time.Minute); r.Days.Has(day.Weekday()) && !t.After(now) {
				return t
			}
		}
		day = day.AddDate(0, 0, -1)
	}
	return time.Time{}
}

// NextDue is the earliest time after now at which a run is due.
func (r *Rules) NextDue(now time.Time) time.Time {
	now = now.UTC()
	day := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	for range 9 {
		for _, m := range r.At {
			if t := day.Add(time.Duration(m) * time.Minute); r.Days.Has(day.Weekday()) && t.After(now) {
				return t
			}
		}
		day = day.AddDate(0, 0, 1)
	}
	return time.Time{}
}

// Made is a snapshot that a policy made.
type Made struct {
	Volume   id.Volume
	Snapshot id.Snapshot
	Due      time.Time
}

// Expired are those of a policy's snapshots that have had their time, the oldest first. The newest of
// each disk stays whatever its age: when runs fail for longer than snapshots are kept, the last good one is what there is.
func (r *Rules) Expired(made []Made, now time.Time) (out []Made) {
	newer := make(map[id.Volume]int)
	byAge := slices.Clone(made)
	slices.SortStableFunc(byAge, func(a, b Made) int { return b.Due.Compare(a.Due) })
	for _, m := range byAge {
		n := newer[m.Volume]
		newer[m.Volume]++
		old := r.Retain > 0 && now.Sub(m.Due) >= r.Retain
		many := r.Keep > 0 && n >= r.Keep
		if n > 0 && (old || many) {
			out = append(out, m)
		}
	}
	slices.Reverse(out)
	return out
}
