package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// bodies finds stores for one user of a host: the packer, the reader or a repair. What
// they call may come from any goroutine and enters the world through its door.
type bodies struct {
	h    *host
	life uint64
	user string
}

// Store is part of packer.Stores, reader.Stores and repair.Stores.
func (b bodies) Store(s id.Store) (storeproto.Store, bool) {
	return &body{b, cluster.StoreRef{Store: s}}, true
}

// body is one store as such a user sees it.
type body struct {
	bodies
	ref cluster.StoreRef
}

var errUnused = errors.New("sim: the packer, the reader and repairs do not call this")

func (b *body) key(op string, seg id.Segment, rest string) string {
	return b.user + " " + op + " " + strconv.Itoa(int(b.ref.Store[15])) + " " + strconv.FormatUint(uint64(seg), 10) + " " + rest + " " + string(b.h.name)
}

// numbers writes numbers down, fast.
func numbers(all ...uint64) string {
	var room [64]byte
	b := room[:0]
	for _, n := range all {
		b = append(strconv.AppendUint(b, n, 10), ' ')
	}
	return string(b)
}

// send lets a request enter the world.
func (b *body) send(key, op string, c class, serve func(*store, func(func())), refuse func(error)) {
	b.h.w.enter(key, 0, func() {
		b.h.w.net.send(&request{from: b.h, life: b.life, to: b.ref, class: c, name: op + " by " + b.user + " of " + string(b.h.name), serve: serve,
			refuse: func(err error) { b.h.w.touch(func() { refuse(err) }) }})
	})
}

// ReadShard is part of storeproto.Store.
func (b *body) ReadShard(r *storeproto.ReadShard) {
	seg, g, index, first, count := r.Segment, r.Generation, r.Index, r.First, r.Count
	end := func(err error, got *storeproto.ReadShard) {
		b.h.w.touch(func() {
			if r.Err = err; err == nil {
				r.Got = got.Got
				copy(r.Dst, got.Dst)
				copy(r.Sums, got.Sums)
			}
			r.Done(r)
		})
	}
	b.send(b.key("read", seg, numbers(uint64(g.Epoch), uint64(g.N), uint64(index), uint64(first), uint64(count))), "read shard", classRead, func(st *store, reply func(func())) {
		wire := &storeproto.ReadShard{Segment: seg, Generation: g, Index: index, First: first, Count: count, Sums: make([]uint32, count)}
		err := st.read(wire)
		reply(func() { end(err, wire) })
	}, func(err error) { end(err, nil) })
}

// PutShard is part of storeproto.Store. The bytes travel when the request enters.
func (b *body) PutShard(p *storeproto.PutShard) {
	h := copyHead(p.Head)
	data, epoch := slices.Concat(p.Data...), p.Epoch
	end := func(err error) {
		b.h.w.touch(func() {
			p.Err = err
			p.Done(p)
		})
	}
	b.send(b.key("put", h.Segment, numbers(uint64(h.Generation.Epoch), uint64(h.Generation.N), uint64(h.Index))), "put shard", classBulk, func(st *store, reply func(func())) {
		wire := &storeproto.PutShard{Head: &h, Epoch: epoch, Data: [][]byte{data}}
		st.put(wire, func(err error) { reply(func() { end(err) }) })
	}, end)
}

// wait sends a request and waits for its answer.
func (b *body) wait(ctx context.Context, key, op string, serve func(*store, func(func()), chan error)) error {
	done := make(chan error, 1)
	b.send(key, op, classRead, func(st *store, reply func(func())) { serve(st, reply, done) }, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", op, context.Cause(ctx), errs.ErrTimeout)
	}
}

// ShardHeads is part of storeproto.Store.
func (b *body) ShardHeads(ctx context.Context, seg id.Segment) (heads []storeproto.ShardHead, err error) {
	err = b.wait(ctx, b.key("heads", seg, ""), "shard heads", func(st *store, reply func(func()), done chan error) {
		st.io("read")
		got := st.img.heads(seg)
		reply(func() {
			b.h.w.touch(func() {
				heads = got
				done <- nil
			})
		})
	})
	return heads, err
}

// ListShards is part of storeproto.Lister.
func (b *body) ListShards(ctx context.Context, q storeproto.ListShards) (list storeproto.ShardList, err error) {
	err = b.wait(ctx, b.key("list", id.Segment(q.PG), fmt.Sprint(q.After)), "list shards", func(st *store, reply func(func()), done chan error) {
		st.list(q, func(got storeproto.ShardList, err error) {
			reply(func() {
				b.h.w.touch(func() {
					list = got
					done <- err
				})
			})
		})
	})
	return list, err
}

// RemoveShards is part of repair.Local.
func (b *body) RemoveShards(ctx context.Context, names ...storeproto.ShardName) error {
	return b.wait(ctx, b.key("remove", 0, fmt.Sprint(names)), "remove shards", func(st *store, reply func(func()), done chan error) {
		st.remove(names)
		reply(func() { b.h.w.touch(func() { done <- nil }) })
	})
}

// Append is part of storeproto.Store; engines send theirs themselves.
func (b *body) Append(a *storeproto.Append) { panic(errUnused) }

// Confirm is part of storeproto.Store.
func (b *body) Confirm(*storeproto.Confirm) { panic(errUnused) }

// Lease is part of storeproto.Store.
func (b *body) Lease(*storeproto.Lease) { panic(errUnused) }

// Fence is part of storeproto.Store.
func (b *body) Fence(context.Context, storeproto.Fence) (storeproto.FenceReply, error) {
	return storeproto.FenceReply{}, errUnused
}

// Fetch is part of storeproto.Store.
func (b *body) Fetch(context.Context, storeproto.Fetch) (storeproto.FetchReply, error) {
	return storeproto.FetchReply{}, errUnused
}

// Drop is part of storeproto.Store.
func (b *body) Drop(context.Context, storeproto.Drop) error { return errUnused }

// Release is part of storeproto.Store.
func (b *body) Release(context.Context, storeproto.Release) error { return errUnused }

// DeleteShards is part of storeproto.Store.
func (b *body) DeleteShards(context.Context, storeproto.DeleteShards) error { return errUnused }
