package chunk

import (
	"testing"
	"time"
)

// Without this those who write together to a slow disk would take turns, and each
// request two syncs; or a lone one would wait for nobody.
func TestSlowDiskGathersLargerGroups(t *testing.T) {
	for name, c := range map[string]struct {
		records, queued, came int
		took, want            time.Duration
	}{
		"slow, some to come":        {20, 12, 12, 3 * time.Millisecond, time.Millisecond},
		"slow, all came":            {20, 12, 32, 3 * time.Millisecond, 0},
		"slow, two shifts":          {16, 16, 16, 3 * time.Millisecond, time.Millisecond},
		"slow, one at a time":       {1, 0, 1, 3 * time.Millisecond, 0},
		"fast":                      {20, 12, 12, 100 * time.Microsecond, 0},
		"very slow: a wait's limit": {20, 0, 1, time.Second, gatherMax},
	} {
		var p pace
		now := time.Hour
		p.begin(now)
		now += c.took
		p.end(c.records, c.queued, now)
		if got := p.gather(c.came, now); got != c.want {
			t.Errorf("%s: waits %s, want %s", name, got, c.want)
		}
		if c.want == 0 {
			continue
		}
		if got := p.gather(c.came, now+c.want/4); got != c.want-c.want/4 {
			t.Errorf("%s: a quarter later waits %s more", name, got)
		}
		for range 2 {
			if got := p.gather(c.came, now+c.want); got != 0 {
				t.Errorf("%s: waits %s beyond the limit", name, got)
			}
		}
	}
}

// Without this writers that do not come back would make every group late.
func TestAWaitInVainIsHardlyRepeated(t *testing.T) {
	var p pace
	round := func(came int) (waited time.Duration) {
		p.begin(0)
		p.end(10, 0, 3*time.Millisecond)
		waited = p.gather(came, 3*time.Millisecond)
		p.gather(came, time.Second)
		return waited
	}
	for i, want := range []time.Duration{time.Millisecond, 300 * time.Microsecond, 300 * time.Microsecond} {
		if got := round(1); got != want {
			t.Errorf("round %d waits %s, want %s", i, got, want)
		}
	}
	round(8)
	if got := round(1); got != time.Millisecond {
		t.Errorf("after many came back waits %s", got)
	}
}
