package nbd

// Batch completes several requests so that each connection is written to once. A device that
// learns of many completions together does
//
//	var b nbd.Batch // kept between uses, one goroutine at a time
//	for ... { b.Complete(r, err) }
//	b.Flush()
//
// Replies may wait for Flush, which must follow.
type Batch struct {
	held []*outbox
}

// Complete is r.Complete(err), with the reply held back until Flush.
func (b *Batch) Complete(r *Request, err error) {
	if c := r.reply.conn; c != nil {
		b.hold(&c.out)
	}
	r.Complete(err)
}

// heldSearch bounds the search for an outbox already held; beyond it one may be corked twice.
const heldSearch = 8

func (b *Batch) hold(o *outbox) {
	for i := len(b.held) - 1; i >= max(0, len(b.held)-heldSearch); i-- {
		if b.held[i] == o {
			return
		}
	}
	o.cork()
	b.held = append(b.held, o)
}

// Flush sends what Complete held back.
func (b *Batch) Flush() {
	for i, o := range b.held {
		o.uncork(false)
		b.held[i] = nil
	}
	b.held = b.held[:0]
}
