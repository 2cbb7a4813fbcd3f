package core

import (
	"testing"
	"time"
)

// A cleaner none of whose victims' headers could be read, or that keeps all of a victim, has nobody to
// judge, and may wait in that state for pages that stores lately did not give. Were it asked then which
// victim waits for a page of a snapshot that cannot be read, the process would panic, with all its disks.
func TestUnreadableSnapshotWhileNobodyIsJudged(t *testing.T) {
	for name, j := range map[string]*CleanJob{
		"no victim is left": {phase: cleanJudging},
		"all are judged":    {phase: cleanJudging, whole: true, victim: 1, Victims: []*Victim{{}}},
	} {
		c := &Core{}
		c.clean.job = j
		c.unreadable(time.Second, &snapshot{})
		if c.clean.job != j {
			t.Errorf("%s: the job is given up for a page that it does not need", name)
		}
	}
}
