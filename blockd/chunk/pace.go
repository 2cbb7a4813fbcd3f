package chunk

import "time"

// pace lets a slow disk write larger groups. Those who were answered with the last
// group come with their next requests soon after it. Where a sync takes long it pays
// to wait for them: else they would go with the sync after the next, writers would
// fall into shifts, and every request would take two syncs. A writer that comes
// alone is never kept waiting, and those who did not come back are hardly waited for
// the next time.
type pace struct {
	began    time.Duration
	target   int           // records in the queue that end the wait; 0: there is none
	deadline time.Duration // the wait's end
	missed   bool          // less than half came, the last time
}

const (
	gatherFrom = 400 * time.Microsecond // syncs that take less are not worth it
	gatherPart = 3                      // of a sync is waited at most
	missedPart = 10                     // the same after a wait in vain
	gatherMax  = time.Millisecond
)

func (p *pace) begin(now time.Duration) { p.began, p.target = now, 0 }

// end: a group of so many records is durable, and others wait already.
func (p *pace) end(records, queued int, now time.Duration) {
	took := now - p.began
	if records < 2 || took < gatherFrom {
		return
	}
	part := time.Duration(gatherPart)
	if p.missed {
		part = missedPart
	}
	p.target, p.deadline = queued+records, now+min(took/part, gatherMax)
}

// gather is how long to wait for more, with so many records queued; look again then,
// and whenever there are more.
func (p *pace) gather(queued int, now time.Duration) time.Duration {
	if p.target == 0 {
		return 0
	}
	if queued < p.target && now < p.deadline {
		return p.deadline - now
	}
	p.missed, p.target = queued < p.target/2, 0
	return 0
}
