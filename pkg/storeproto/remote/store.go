package remote

import (
	"context"
	"fmt"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
)

// store is one store of a peer: the requests that wait for their answer. The rest are in io.go.
type store struct {
	peer        *Peer
	id          id.Store
	incarnation id.Incarnation
	ref         [refBytes]byte
}

// Incarnation is the only one that requests reach.
func (s *store) Incarnation() id.Incarnation { return s.incarnation }

var (
	_ storeproto.Store  = (*store)(nil)
	_ storeproto.Corker = (*store)(nil)
	_ storeproto.Lister = (*store)(nil)
)

// Cork is part of storeproto.Corker.
func (s *store) Cork() { s.peer.Cork() }

// Uncork is part of storeproto.Corker.
func (s *store) Uncork() { s.peer.Uncork() }

func (s *store) String() string { return fmt.Sprintf("%s at %s", s.id, s.peer.host) }

func (s *store) do(ctx context.Context, op uint16, what string, head []byte, answer func(c *rpc.Call, head []byte, payload int) error) error {
	if err := s.peer.client(op).Do(ctx, op, head, nil, answer); err != nil {
		return fmt.Errorf("%s on store %s: %w", what, s, err)
	}
	return nil
}

// head begins the head of a request.
func (s *store) head() []byte { return append(make([]byte, 0, 256), s.ref[:]...) }

// plain makes an answer of a decoder of its head.
func (s *store) plain(f func(r *codec.Reader)) func(*rpc.Call, []byte, int) error {
	return func(_ *rpc.Call, head []byte, payload int) error {
		if payload != 0 {
			return corrupt(s.String(), "payload of a reply", 0, payload)
		}
		return decode(s.String(), head, f)
	}
}

// Fence is part of storeproto.Store.
func (s *store) Fence(ctx context.Context, f storeproto.Fence) (reply storeproto.FenceReply, err error) {
	err = s.do(ctx, opFence, "fence", appendFence(s.head(), &f), s.plain(func(r *codec.Reader) { reply = readFenceReply(r) }))
	return reply, err
}

// Drop is part of storeproto.Store.
func (s *store) Drop(ctx context.Context, d storeproto.Drop) error {
	if len(d.Keep) > listMax {
		return tooMany("ensembles to keep", len(d.Keep))
	}
	return s.do(ctx, opDrop, "drop", appendDrop(s.head(), &d), nil)
}

func tooMany(what string, n int) error {
	return fmt.Errorf("%d %s in one request, at most %d: %w", n, what, listMax, errs.ErrInvalid)
}

// Release is part of storeproto.Store.
func (s *store) Release(ctx context.Context, q storeproto.Release) error {
	return s.do(ctx, opRelease, "release", appendRelease(s.head(), &q), nil)
}

// DeleteShards is part of storeproto.Store.
func (s *store) DeleteShards(ctx context.Context, d storeproto.DeleteShards) error {
	for all := d.Segments; ; {
		n := min(len(all), listMax)
		d.Segments, all = all[:n], all[n:]
		if err := s.do(ctx, opDeleteShards, "delete shards", appendDelete(s.head(), &d), nil); err != nil || len(all) == 0 {
			return err
		}
	}
}

// ShardHeads is part of storeproto.Store.
func (s *store) ShardHeads(ctx context.Context, segment id.Segment) (heads []storeproto.ShardHead, err error) {
	err = s.do(ctx, opShardHeads, "list shards", le.AppendUint64(s.head(), uint64(segment)),
		s.plain(func(r *codec.Reader) { heads = readShardHeads(r) }))
	return heads, err
}

// ListShards is part of storeproto.Lister.
func (s *store) ListShards(ctx context.Context, q storeproto.ListShards) (list storeproto.ShardList, err error) {
	err = s.do(ctx, opListShards, "list shards of a group", appendList(s.head(), &q),
		s.plain(func(r *codec.Reader) { list = readListReply(r) }))
	return list, err
}

// Fetch is part of storeproto.Store. The batches are checked here, and their payload is aligned.
func (s *store) Fetch(ctx context.Context, f storeproto.Fetch) (storeproto.FetchReply, error) {
	var got fetched
	err := s.do(ctx, opFetch, "fetch", appendFetch(s.head(), &f), func(c *rpc.Call, head []byte, payload int) error {
		r := codec.NewReader(s.String(), head)
		headers, more := readFetchReply(s.String(), &r)
		if r.End(); r.Err() != nil {
			return r.Err()
		}
		if len(headers) > 0 && headers[0].Stream != f.Stream {
			return corrupt(s.String(), "stream of fetched batches", 0, 1)
		}
		got.more = more
		return got.allocate(c, s.String(), headers, payload)
	})
	if err == nil {
		err = got.check(s.String())
	}
	if err != nil {
		got.release()
		return storeproto.FetchReply{}, err
	}
	return storeproto.FetchReply{Batches: got.batches, More: got.more}, nil
}

// fetched gathers the batches of an answer.
type fetched struct {
	batches []*storeproto.Batch
	sums    [][]byte
	more    bool
}

func (g *fetched) allocate(c *rpc.Call, place string, headers []storeproto.Header, payload int) error {
	total := 0
	for i := range headers {
		total += headers[i].BodySize()
	}
	if total != payload {
		return corrupt(place, "bytes of batches", total, payload)
	}
	for i := range headers {
		h := &headers[i]
		b := &storeproto.Batch{Epoch: h.BatchEpoch, First: h.First, Count: h.Count, Meta: make([]byte, h.MetaLen), Sum: h.Sum}
		raw := make([]byte, 4*h.Blocks)
		c.Into = append(c.Into, b.Meta, raw)
		if h.Blocks > 0 {
			data := buf.Get(h.Blocks * storeproto.BlockSize)
			b.Payload = [][]byte{data.Bytes()}
			b.Free = func(*storeproto.Batch) { data.Release() }
			c.Into = append(c.Into, data.Bytes())
		}
		b.Retain()
		g.batches, g.sums = append(g.batches, b), append(g.sums, raw)
	}
	return nil
}

func (g *fetched) check(place string) error {
	for i, b := range g.batches {
		b.Sums = storeproto.DecodeSums(make([]uint32, 0, len(g.sums[i])/4), g.sums[i])
		if err := b.Verify(place); err != nil {
			return err
		}
	}
	return nil
}

func (g *fetched) release() {
	for _, b := range g.batches {
		b.Release()
	}
}
