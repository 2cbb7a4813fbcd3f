package core

import "ashlar.dev/pkg/block"

// lockTable orders the few operations that hold a range for longer than one
// step: sub-block writes, which read before they write, and long writes, whose
// segment becomes durable before they get their LSN. A write that overlaps a held
// range, or one that waits for it, waits its turn, so overlapping
// writes keep the order of their arrival. Reads never wait here.
//
// With nothing held, which is the rule, the hot path costs one length check.
type lockTable struct {
	held    []*Op
	waiting []*Op
}

// admit tells whether op may go on now; if not it has been queued. hold keeps
// the range until release.
func (t *lockTable) admit(op *Op, hold bool) bool {
	if len(t.held) == 0 && len(t.waiting) == 0 {
		if hold {
			t.held = append(t.held, op)
		}
		return true
	}
	if blocked(op.Extent, t.held) || blocked(op.Extent, t.waiting) {
		op.hold = hold
		t.waiting = append(t.waiting, op)
		return false
	}
	if hold {
		t.held = append(t.held, op)
	}
	return true
}

// blocked tells whether e overlaps the range of one of ops.
func blocked(e block.Extent, ops []*Op) bool {
	for _, o := range ops {
		if o.Extent.Overlaps(e) {
			return true
		}
	}
	return false
}

// release ends op's hold and appends to ready, in their order, the waiting
// operations that may go on; those that asked for it hold their range now.
func (t *lockTable) release(op *Op, ready []*Op) []*Op {
	for i, h := range t.held {
		if h == op {
			t.held = append(t.held[:i], t.held[i+1:]...)
			break
		}
	}
	kept := t.waiting[:0]
	all := t.waiting
	for _, w := range all {
		if blocked(w.Extent, t.held) || blocked(w.Extent, kept) {
			kept = append(kept, w)
			continue
		}
		if w.hold {
			t.held = append(t.held, w)
		}
		ready = append(ready, w)
	}
	clear(all[len(kept):])
	t.waiting = kept
	return ready
}

// drain empties the table and gives all operations that held or waited.
func (t *lockTable) drain() []*Op {
	all := append(t.held, t.waiting...)
	t.held, t.waiting = nil, nil
	return all
}
