package nbd

// Batch completes several requests so that each connection is written to once. A device that
// learns of many completions together does
//
//	var b nbd.Batch
//	for ... { b.Complete(r, err) }
//	b.Flush()
//
// Replies may wait for Flush, which must follow. A Batch belongs to one goroutine, allocates nothing for a few
// connections, and may be used again after Flush.
type Batch struct {
	few  [8]*outbox // held, the first n
	n    int
	more []*outbox // held, beyond them
}

// Complete is r.Complete(err), with the reply held back until Flush.
func (b *Batch) Complete(r *Request, err error) {
	if c := r.reply.conn; c != nil {
		b.hold(&c.out)
	}
	r.Complete(err)
}

// hold corks o, unless it is among the few already. One of the others may be corked twice.
func (b *Batch) hold(o *outbox) {
	for i := b.n - 1; i >= 0; i-- {
		if b.few[i] == o {
			return
		}
	}
	o.cork()
	if b.n < len(b.few) {
		b.few[b.n] = o
		b.n++
		return
	}
	b.more = append(b.more, o)
}

// Flush sends what Complete held back.
func (b *Batch) Flush() {
	for i := range b.n {
		b.few[i].uncork(false)
		b.few[i] = nil
	}
	for i, o := range b.more {
		o.uncork(false)
		b.more[i] = nil
	}
	b.n, b.more = 0, b.more[:0]
}
