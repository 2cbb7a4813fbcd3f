package chunk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"ashlar.dev/blockd/chunk/extent"
	"ashlar.dev/blockd/chunk/log"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/vfs"
)

// Marks of a full disk, in parts of a thousand of the capacity or of the file
// system, whichever is tighter. Above shardsMark no shard is taken: what is left
// is for meta appends, commits, tombstones and the index. Above metaMark no meta
// append either: what is left is the index's own, so that it can delete. Above
// fullMark the store calls itself full: engines take no new bytes for it, and what
// they have taken is packed into the room between the two. It does so until it is
// below roomMark: what a cleaner frees and packs again must not turn it to and fro.
const (
	roomMark   = 920
	fullMark   = 930
	shardsMark = 950
	metaMark   = 990
	keeperTick = time.Second
)

type counters struct {
	fs                                            vfs.Counter
	reads, cacheMisses, badBlocks, puts, putBytes atomic.Int64
	deletes                                       atomic.Int64
	indexBytes, fsAvailable, fsTotal              atomic.Int64
	groups, groupTime                             atomic.Int64
	callsFull                                     atomic.Bool // fullMark was passed, and roomMark not since
	wantFile                                      chan struct{}
}

// Stats is where a store stands. Counts are since it was opened.
type Stats struct {
	CapacityBytes int64 // configured, or the file system's
	UsedBytes     int64 // log, index and the units of shards
	FreeBytes     int64 // until FullShards
	FullShards    bool  // no new bytes should come; shards are refused a little later
	FullMeta      bool  // meta appends are refused, too

	Log                log.Stats
	JournalBytes       int64 // unreleased
	JournalBytesMax    int64
	Streams            int
	Shards             int
	ShardBytes         int64 // room taken by shards
	ExtentFiles        int
	IndexBytes         int64
	Syncs              int64 // of all files
	Writes, WriteBytes int64
	ReadOps, ReadBytes int64 // of files
	ShardReads         int64
	SumCacheMisses     int64
	SumCacheBytes      int64
	BadBlocks          int64 // that failed their check or could not be read
	Puts, PutBytes     int64
	Deletes            int64
}

// GroupTime tells how many groups with journal records the store made durable, and how long
// these took together: what clients wait for here. Groups of shards' rows alone are not counted.
func (s *Store) GroupTime() (groups uint64, total time.Duration) {
	return uint64(s.count.groups.Load()), time.Duration(s.count.groupTime.Load())
}

// Stats tells where the store stands.
func (s *Store) Stats() Stats {
	st := Stats{Log: s.jlog.Stats(), JournalBytesMax: log.LiveBytesMax(s.ident.LogFileBytes, s.ident.LogFilesMax),
		IndexBytes: s.count.indexBytes.Load(), Syncs: s.count.fs.Syncs.Load(), Writes: s.count.fs.Writes.Load(),
		WriteBytes: s.count.fs.WriteBytes.Load(), ReadOps: s.count.fs.Reads.Load(), ReadBytes: s.count.fs.ReadBytes.Load(),
		ShardReads: s.count.reads.Load(), SumCacheMisses: s.count.cacheMisses.Load(), BadBlocks: s.count.badBlocks.Load(),
		Puts: s.count.puts.Load(), PutBytes: s.count.putBytes.Load(), Deletes: s.count.deletes.Load()}
	st.SumCacheBytes, _ = s.reads.cache.usage()
	units, files := s.ext.alloc.Used()
	st.ShardBytes, st.ExtentFiles = units*extent.Unit, files
	st.CapacityBytes, st.UsedBytes, st.FreeBytes = s.capacity(), s.used(), s.free()
	_, st.FullMeta = s.full()
	st.FullShards = s.callsFull()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.JournalBytes = s.mu.core.JournalBytes()
	s.mu.core.Streams(func(*core.Stream) { st.Streams++ })
	for _, u := range s.mu.volumes {
		st.Shards += u.shards
	}
	return st
}

func (s *Store) capacity() int64 {
	if s.opts.CapacityBytes > 0 {
		return s.opts.CapacityBytes
	}
	return s.count.fsTotal.Load()
}

func (s *Store) used() int64 {
	units, _ := s.ext.alloc.Used()
	return int64(s.ident.LogFilesMax)*s.ident.LogFileBytes + s.count.indexBytes.Load() + units*extent.Unit
}

// full tells which marks are passed.
func (s *Store) full() (shards, meta bool) { return s.over(shardsMark), s.over(metaMark) }

// callsFull tells whether the store calls itself full.
func (s *Store) callsFull() bool {
	mark := int64(fullMark)
	if s.count.callsFull.Load() {
		mark = roomMark
	}
	full := s.over(mark)
	s.count.callsFull.Store(full)
	return full
}

// over tells whether a mark is passed.
func (s *Store) over(mark int64) bool {
	if c := s.capacity(); c > 0 && s.used() > c/1000*mark {
		return true
	}
	total := s.count.fsTotal.Load()
	return total > 0 && total-s.count.fsAvailable.Load() > total/1000*mark && s.count.fsAvailable.Load() < total/1000*(1000-mark)
}

// free is what is left below the mark of a full store, by its own capacity and by the disk's.
func (s *Store) free() int64 {
	left := s.capacity()/1000*fullMark - s.used()
	if total := s.count.fsTotal.Load(); total > 0 {
		left = min(left, s.count.fsAvailable.Load()-total/1000*(1000-fullMark))
	}
	return max(left, 0)
}

// checkSpace looks at the disk and tells the core.
func (s *Store) checkSpace() {
	if u, err := s.fs.GetDiskUsage(s.dir); err == nil {
		s.count.fsAvailable.Store(int64(u.AvailBytes))
		// What the file system keeps back for root or a quota is no room that we lose.
		s.count.fsTotal.Store(int64(u.UsedBytes + u.AvailBytes))
	}
	s.count.indexBytes.Store(int64(s.index.db.Metrics().DiskSpaceUsage()))
	shards, meta := s.full()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.SetFull(meta, shards)
}

// allocate gives room for a shard below the mark.
func (s *Store) allocate(bytes int64) (extent.Place, error) {
	room := int64(1) << 40 / s.ext.bytes
	if c := s.capacity(); c > 0 {
		left := c/1000*shardsMark - s.used()
		if left < bytes {
			return nil, fmt.Errorf("room for %d bytes, %d of %d used: %w", bytes, s.used(), c, errs.ErrNoSpace)
		}
		units, _ := s.ext.alloc.Used()
		// Enough files for all that may be used, and one to spare for the fragments.
		room = (left+units*extent.Unit+s.ext.bytes-1)/s.ext.bytes + 1
	}
	return s.ext.allocate(bytes, room)
}

// keeper looks after space and log files in the background.
func (s *Store) keeper(ctx context.Context) error {
	t := s.clock.NewTicker(keeperTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.death.c:
			return nil
		case <-s.count.wantFile:
			if err := s.jlog.Prepare(); err != nil {
				s.die(err)
			}
		case <-t.C():
			s.checkSpace()
		}
	}
}

// wantLogFile asks the keeper for a log file.
func (s *Store) wantLogFile() {
	select {
	case s.count.wantFile <- struct{}{}:
	default:
	}
}

// VolumeInfo is what a store has of one volume.
type VolumeInfo struct {
	Volume     id.Volume
	Fence      id.Epoch  // zero: none
	By         id.Holder // who fenced
	Streams    []storeproto.StreamState
	Shards     int
	ShardBytes int64 // room taken
}

// Volumes lists what the store has, by volume.
func (s *Store) Volumes() []VolumeInfo {
	s.mu.Lock()
	byID := make(map[id.Volume]*VolumeInfo)
	var list []*VolumeInfo
	at := func(v id.Volume) *VolumeInfo {
		if byID[v] == nil {
			byID[v] = &VolumeInfo{Volume: v}
			list = append(list, byID[v])
		}
		return byID[v]
	}
	s.mu.core.Volumes(func(v core.VolumeState) {
		i := at(v.Volume)
		i.Fence, i.By, i.Streams = v.Fence, v.By, v.Streams
	})
	for v, u := range s.mu.volumes {
		i := at(v)
		i.Shards, i.ShardBytes = u.shards, u.units*extent.Unit
	}
	s.mu.Unlock()
	out := make([]VolumeInfo, 0, len(list))
	for _, i := range list {
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b VolumeInfo) int { return slices.Compare(a.Volume[:], b.Volume[:]) })
	return out
}

// Seal keeps new streams from being created: from before a restored metad is told which there are. It
// is not kept over a restart.
func (s *Store) Seal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.Seal()
}

// Sealed tells whether Unseal is wanted.
func (s *Store) Sealed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.core.Sealed()
}

// Unseal lets streams be created under these epochs of their volumes, or later ones. The store keeps the map.
func (s *Store) Unseal(floors map[id.Volume]id.Epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.Unseal(floors)
}

// GroupBytes is the room that shards take, by placement group.
func (s *Store) GroupBytes() map[id.PG]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[id.PG]int64, len(s.mu.groups))
	for pg, units := range s.mu.groups {
		out[pg] = units * extent.Unit
	}
	return out
}

// ForgetStreams drops the streams of a volume whose ensembles are of epochs up
// to epoch and not in keep, whatever the fence: for what metad says is deleted or
// in no list any more. The fence stays. Durable when it returns.
func (s *Store) ForgetStreams(ctx context.Context, v id.Volume, epoch id.Epoch, keep ...id.Ensemble) error {
	_, err := s.control(ctx, "forget streams", func(ctl *core.Control) {
		s.mu.core.Forget(storeproto.Drop{Volume: v, Epoch: epoch, Keep: keep}, ctl)
	})
	return err
}

// PurgeVolume removes what a deleted volume has here up to an epoch: streams of
// such ensembles and shards of such generations. A tombstone over all of them stays, so
// that no repair brings one back, and the fence does; metad has fenced the volume at
// that epoch before, so nothing else of it can come back.
// Durable when it returns; after an error, or a crash, it is to be called again.
func (s *Store) PurgeVolume(ctx context.Context, v id.Volume, epoch id.Epoch) error {
	if err := s.ForgetStreams(ctx, v, epoch); err != nil {
		return err
	}
	_, err := s.control(ctx, "purge shards", func(ctl *core.Control) { s.mu.core.PurgeShards(v, epoch, ctl) })
	if err != nil {
		return err
	}
	var doomed []shardName
	err = s.EachShard(v, func(seg storeproto.SegmentGeneration, index uint8) bool {
		if seg.Generation.Epoch <= epoch {
			doomed = append(doomed, shardName{seg.Segment, seg.Generation, index})
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("purge %s: %w", v, err)
	}
	return s.deleteShards(doomed)
}

var errStop = errors.New("stop")

// EachShard calls f for every shard of a volume, by segment, generation and
// index, until f says stop. It sees one moment's state.
func (s *Store) EachShard(v id.Volume, f func(seg storeproto.SegmentGeneration, index uint8) bool) error {
	if err := s.alive(); err != nil {
		return err
	}
	err := s.index.scan(volumeKey(keyOwner, v), func(key []byte, _ func() ([]byte, error)) error {
		n, ok := decodeShardName(key[17:])
		if !ok {
			return badKey("owner", key)
		}
		if !f(storeproto.SegmentGeneration{Segment: n.segment, Generation: n.generation}, n.index) {
			return errStop
		}
		return nil
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}
