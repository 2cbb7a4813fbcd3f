package sim

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// The requests of a store as its shell carries them out; each calls its answer once.

func (st *store) append(a *storeproto.Append) {
	if err := a.Batch.Verify("append"); err != nil {
		st.w.fail(CheckWire, "%s is sent a batch that is not what it was: %v", st.name, err)
		return
	}
	st.core.Append(a)
}

func (st *store) fence(f storeproto.Fence, answer func(storeproto.FenceReply, error)) {
	st.core.Fence(st.now(), &core.Fencing{Req: f, Done: func(x *core.Fencing) { answer(x.Reply, x.Err) }})
}

func (st *store) control(answer func(error)) *core.Control {
	return &core.Control{Done: func(c *core.Control) { answer(c.Err) }}
}

// fetch reads batches for a recovery.
func (st *store) fetch(f storeproto.Fetch) (r storeproto.FetchReply, err error) {
	s := st.core.Stream(f.Stream)
	if s == nil {
		return r, fmt.Errorf("fetch from a stream that is not there: %w", errs.ErrNotFound)
	}
	var batches []core.Batch
	bytes := 0
	s.Batches(f.From, func(b core.Batch) bool {
		if bytes += int(b.Bytes); len(batches) > 0 && (bytes > f.BytesMax || len(batches) >= 8) {
			r.More = true
			return false
		}
		batches = append(batches, b)
		return true
	})
	lr := st.log.NewReader()
	defer lr.Close()
	for _, b := range batches {
		got, err := st.batch(lr, f.Stream, b)
		if err != nil {
			return storeproto.FetchReply{}, fmt.Errorf("fetch %d: %w", b.First, err)
		}
		r.Batches = append(r.Batches, got)
	}
	return r, nil
}

// batch gives a batch of its own memory, which nobody has to give back.
func (st *store) batch(r logReader, name storeproto.Stream, b core.Batch) (*storeproto.Batch, error) {
	if name.Kind == storeproto.Meta {
		have := st.img.metas[name][b.First]
		if have == nil {
			return nil, fmt.Errorf("meta batch %d: %w", b.First, errs.ErrNotFound)
		}
		return copyBatch(have), nil
	}
	have, err := r.Batch(name, b)
	if err != nil {
		return nil, err
	}
	c := copyBatch(have)
	have.Release()
	return c, nil
}

type logReader interface {
	Batch(storeproto.Stream, core.Batch) (*storeproto.Batch, error)
}

// put writes a shard, which comes in one piece and stays as it is: its data, then through the queue, where it becomes visible.
func (st *store) put(p *storeproto.PutShard, answer func(error)) {
	sh := &shard{head: copyHead(p.Head), data: p.Data[0]}
	if err := st.checkPut(p, sh); err != nil {
		answer(err)
		return
	}
	st.io("write")
	st.io("sync")
	if err := st.fs.err; err != nil {
		st.die(fmt.Errorf("sync shard: %w", err))
		answer(errDown)
		return
	}
	life, epoch := st.img.life, p.Epoch
	st.w.after(st.syncTime(), st.name+" shard synced", func() { st.commitPut(life, sh, epoch, answer) })
}

func (st *store) commitPut(life uint32, sh *shard, epoch id.Epoch, answer func(error)) {
	if !st.up || st.img.life != life || st.died != "" {
		answer(errDown)
		return
	}
	if st.h.park(func() { st.commitPut(life, sh, epoch, answer) }) {
		return
	}
	ctl := &core.Control{Shard: sh, Done: func(c *core.Control) {
		if c.Err == nil {
			c.Err = sh.err
		}
		answer(c.Err)
	}}
	st.core.CommitShard(&sh.head, epoch, ctl)
	st.pump()
}

func (st *store) checkPut(p *storeproto.PutShard, sh *shard) error {
	if err := p.Head.Validate(); err != nil {
		return err
	}
	if len(sh.data) != int(p.Head.Blocks)*storeproto.BlockSize {
		return fmt.Errorf("put shard of %d bytes, head has %d blocks: %w", len(sh.data), p.Head.Blocks, errs.ErrInvalid)
	}
	for i, want := range p.Head.Sums {
		if got := storeproto.BlockSum(codec.CRC(sh.data[i*storeproto.BlockSize:][:storeproto.BlockSize]), p.Head.Segment, p.Head.Index, uint16(i)); got != want {
			st.w.fail(CheckWire, "%s is sent shard %d of %s with a block that fails its sum", st.name, p.Head.Index, p.Head.Segment)
			return errs.ErrCorrupt
		}
	}
	return st.core.AdmitShard(p.Head, p.Epoch)
}

func (st *store) read(r *storeproto.ReadShard) error {
	st.io("read")
	if err := st.core.Dead(); err != nil {
		return err
	}
	err := st.img.read(r)
	if err != nil {
		st.suspect(r, err)
	}
	return err
}

// list raises the group's version, durably, and then looks; a volume has none.
func (st *store) list(q storeproto.ListShards, answer func(storeproto.ShardList, error)) {
	if q.Volume != (id.Volume{}) {
		st.io("read")
		answer(st.img.list(q), nil)
		return
	}
	st.core.SetPGVersions([]core.PGVersion{{PG: q.PG, Version: q.Version}}, st.control(func(err error) {
		if err != nil {
			answer(storeproto.ShardList{}, err)
			return
		}
		st.io("read")
		answer(st.img.list(q), nil)
	}))
}

// remove takes shards away without tombstones.
func (st *store) remove(names []storeproto.ShardName) {
	st.io("index")
	for _, n := range names {
		if sh := st.img.shards[n]; sh != nil {
			st.w.led.removed(st, sh)
			st.img.count(sh.head.Info().ShardName, -len(sh.data))
			delete(st.img.shards, n)
		}
	}
}

// answered is where the store's promises are checked: before the answer leaves.
func (st *store) answered(r core.Reply) {
	switch {
	case r.Fence != nil && r.Fence.Err == nil:
		st.w.led.fenced(st, &r.Fence.Req)
	case r.Append != nil && r.Append.Err == nil:
		st.w.led.appended(st, r.Append)
	}
}

func copyBatch(b *storeproto.Batch) *storeproto.Batch {
	c := &storeproto.Batch{Epoch: b.Epoch, First: b.First, Count: b.Count, Meta: append([]byte(nil), b.Meta...), Sums: append([]uint32(nil), b.Sums...)}
	if n := b.PayloadBytes(); n > 0 {
		p := make([]byte, 0, n)
		for _, x := range b.Payload {
			p = append(p, x...)
		}
		c.Payload = [][]byte{p}
	}
	c.Seal()
	return c
}

// between is how long a message takes in fair weather.
const (
	hopMin = 20 * time.Microsecond
	hopMax = 300 * time.Microsecond
)

// forgetAll drops all streams of a volume.
func (st *store) forgetAll(p purge, answer func(error)) {
	st.core.Forget(storeproto.Drop{Volume: p.volume, Epoch: p.epoch}, st.control(answer))
}
