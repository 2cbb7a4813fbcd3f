package chunk

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// loaded is what an open finds in the index, shards apart.
type loaded struct {
	fences     []core.FenceRow
	rows       []core.Row
	dropped    map[storeproto.Stream]id.Epoch
	tombstones []core.Tombstone
	pgs        []core.PGVersion
	metas      map[storeproto.Stream][]core.Batch
}

// nextLife counts this start, durably, before anything else is done.
func (x *index) nextLife() (uint32, error) {
	v, err := x.get([]byte{keyLife})
	if err != nil {
		return 0, fmt.Errorf("read the number of starts: %w", err)
	}
	n, err := decodeNumber(v)
	if err != nil {
		return 0, err
	}
	b := x.newBatch()
	if err := b.Set([]byte{keyLife}, encodeNumber(n+1), nil); err != nil {
		return 0, err
	}
	return n + 1, x.commit(b)
}

// load reads everything that the core is restored from.
func (x *index) load() (*loaded, error) {
	l := &loaded{dropped: make(map[storeproto.Stream]id.Epoch), metas: make(map[storeproto.Stream][]core.Batch)}
	for _, part := range []struct {
		kind byte
		take func(key, v []byte) error
	}{
		{keyFence, l.takeFence}, {keyStream, l.takeStream}, {keyDropped, l.takeDropped},
		{keyTombstone, l.takeTombstone}, {keyPG, l.takePG}, {keyMeta, l.takeMeta},
	} {
		err := x.scan([]byte{part.kind}, func(key []byte, value func() ([]byte, error)) error {
			v, err := value()
			if err != nil {
				return err
			}
			return part.take(key, v)
		})
		if err != nil {
			return nil, fmt.Errorf("load index: %w", err)
		}
	}
	return l, nil
}

func badKey(what string, key []byte) error {
	return &errs.Corrupt{Place: "index", Offset: -1, What: what + " key", Want: 0, Got: uint64(len(key))}
}

func (l *loaded) takeFence(key, v []byte) error {
	if len(key) != 17 {
		return badKey("fence", key)
	}
	f, err := decodeFence(id.Volume(key[1:]), v)
	l.fences = append(l.fences, f)
	return err
}

func (l *loaded) takeStream(key, v []byte) error {
	s, ok := decodeStreamKey(key)
	if !ok {
		return badKey("stream", key)
	}
	row, err := decodeRow(s, v)
	l.rows = append(l.rows, row)
	return err
}

func (l *loaded) takeDropped(key, v []byte) error {
	s, ok := decodeStreamKey(key)
	if !ok {
		return badKey("dropped stream", key)
	}
	e, err := decodeEpoch(v)
	l.dropped[s] = e
	return err
}

func (l *loaded) takeTombstone(key, v []byte) error {
	t, err := decodeTombstone(key, v)
	l.tombstones = append(l.tombstones, t)
	return err
}

func (l *loaded) takePG(key, v []byte) error {
	if len(key) != 3 {
		return badKey("group", key)
	}
	n, err := decodeNumber(v)
	l.pgs = append(l.pgs, core.PGVersion{PG: id.PG(be.Uint16(key[1:])), Version: n})
	return err
}

func (l *loaded) takeMeta(key, v []byte) error {
	if len(key) != streamKeyLen+8 {
		return badKey("meta batch", key)
	}
	s, ok := decodeStreamKey(key[:streamKeyLen])
	if !ok {
		return badKey("meta batch", key)
	}
	h, err := storeproto.DecodeHeader("meta stream", v)
	if err != nil {
		return err
	}
	l.metas[s] = append(l.metas[s], core.Batch{First: h.First, Epoch: h.BatchEpoch, Count: h.Count, Sum: h.Sum, Bytes: uint32(len(v))})
	return nil
}

func (l *loaded) restore(c *core.Core) {
	for _, f := range l.fences {
		c.RestoreFence(f)
	}
	for s, at := range l.dropped {
		c.RestoreDropped(s, at)
	}
	for _, t := range l.tombstones {
		c.RestoreTombstone(t)
	}
	for _, v := range l.pgs {
		c.RestorePG(v)
	}
}

// saveRecovered makes durable what the recovery decided, before the store
// serves: which streams lost records. It also clears away what nothing needs any
// more: released meta batches, and what a fence has made moot.
func (x *index) saveRecovered(changed []core.Row, c *core.Core, l *loaded) error {
	b := x.newBatch()
	var all []error
	for _, row := range changed {
		all = append(all, b.Set(streamKey(keyStream, row.Stream), encodeRow(row), nil))
	}
	for s, batches := range l.metas {
		st := c.Stream(s)
		for _, m := range batches {
			if st == nil || m.Last() <= st.Row().Released {
				all = append(all, b.Delete(metaKey(s, m.First), nil))
			}
		}
	}
	fences := make(map[id.Volume]id.Epoch, len(l.fences))
	for _, f := range l.fences {
		fences[f.Volume] = f.Epoch
	}
	for s, at := range l.dropped {
		if at < fences[s.Volume] {
			all = append(all, b.Delete(streamKey(keyDropped, s), nil))
		}
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	if b.Empty() {
		return b.Close()
	}
	return x.commit(b)
}

// pruneTombstones deletes those that a fence has made moot. Called when their
// shards are gone.
func (x *index) pruneTombstones(l *loaded) error {
	fences := make(map[id.Volume]id.Epoch, len(l.fences))
	for _, f := range l.fences {
		fences[f.Volume] = f.Epoch
	}
	b := x.newBatch()
	for _, t := range l.tombstones {
		if t.Moot(fences[t.Volume]) {
			if err := b.Delete(tombstoneKey(t.Volume, t.Segment), nil); err != nil {
				return err
			}
		}
	}
	if b.Empty() {
		return b.Close()
	}
	return x.await(x.commitAsync(b, pebble.NoSync))
}
