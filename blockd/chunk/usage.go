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
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/vfs"
)

const keeperTick = time.Second

type counters struct {
	fs                                            vfs.Counter
	reads, cacheMisses, badBlocks, puts, putBytes atomic.Int64
	deletes                                       atomic.Int64
	indexCache, memTables                         atomic.Int64
	indexBytes, fsAvailable, fsTotal              atomic.Int64
	groups, groupTime, streams                    atomic.Int64
	callsFull                                     atomic.Bool // it did when it was asked last
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
	SumCacheMax        int64
	IndexCacheBytes    int64 // blocks of the index read lately
	IndexCacheMax      int64
	MemTableBytes      int64 // rows of the index that are not in tables yet
	MemTableMax        int64
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
	st := Stats{Log: s.jlog.Stats(), JournalBytesMax: s.journalBytesMax(),
		IndexBytes: s.count.indexBytes.Load(), Syncs: s.count.fs.Syncs.Load(), Writes: s.count.fs.Writes.Load(),
		WriteBytes: s.count.fs.WriteBytes.Load(), ReadOps: s.count.fs.Reads.Load(), ReadBytes: s.count.fs.ReadBytes.Load(),
		ShardReads: s.count.reads.Load(), SumCacheMisses: s.count.cacheMisses.Load(), BadBlocks: s.count.badBlocks.Load(),
		Puts: s.count.puts.Load(), PutBytes: s.count.putBytes.Load(), Deletes: s.count.deletes.Load()}
	st.SumCacheBytes, _ = s.reads.cache.usage()
	st.SumCacheMax, st.IndexCacheMax, st.MemTableMax = s.opts.SumCacheBytes, s.opts.IndexCacheBytes, (memTables+1)*memTableBytes
	st.IndexCacheBytes, st.MemTableBytes = s.count.indexCache.Load(), s.count.memTables.Load()
	units, files := s.ext.alloc.Used()
	st.ShardBytes, st.ExtentFiles = units*extent.Unit, files
	st.CapacityBytes, st.UsedBytes, st.FreeBytes = s.capacity(), s.used(), s.free()
	st.FullMeta = s.over(metaMark)
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

func (s *Store) journalBytesMax() int64 {
	return log.LiveBytesMax(s.ident.LogFileBytes, s.ident.LogFilesMax)
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

// checkSpace looks at the disk and tells the core.
func (s *Store) checkSpace() {
	if u, err := s.fs.GetDiskUsage(s.dir); err == nil {
		s.count.fsAvailable.Store(int64(u.AvailBytes))
		// What the file system keeps back for root or a quota is no room that we lose.
		s.count.fsTotal.Store(int64(u.UsedBytes + u.AvailBytes))
	}
	m := s.index.db.Metrics()
	s.count.indexBytes.Store(int64(m.DiskSpaceUsage()))
	s.count.indexCache.Store(m.BlockCache.Size)
	s.count.memTables.Store(int64(m.MemTable.Size + m.MemTable.ZombieSize))
	shards, meta := s.over(pagesMark), s.over(metaMark)
	s.mu.Lock()
	defer s.mu.Unlock()
	streams := int64(0)
	s.mu.core.Streams(func(*core.Stream) { streams++ })
	s.count.streams.Store(streams)
	s.mu.core.SetFull(meta, shards)
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

// Seal keeps new streams from being created, and shards out that are of newer versions of placement groups than told
// gives: from before a restored metad is told which there are. It is not kept over a restart. The store keeps the map.
func (s *Store) Seal(told map[id.PG]uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.core.Seal(told)
}

// Sealed tells whether Unseal is wanted.
func (s *Store) Sealed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.core.Sealed()
}

// Unseal lets owners of these epochs of their volumes, or later ones, create streams and put shards. The store keeps the map.
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
// such ensembles and shards of such generations. A tombstone over all of them comes first and stays, so
// that no repair brings one back, and no owner who has not heard of the deletion makes a stream anew; the fence stays too.
// Durable when it returns; after an error, or a crash, it is to be called again.
func (s *Store) PurgeVolume(ctx context.Context, v id.Volume, epoch id.Epoch) error {
	_, err := s.control(ctx, "purge shards", func(ctl *core.Control) { s.mu.core.PurgeShards(v, epoch, ctl) })
	if err != nil {
		return err
	}
	if err := s.ForgetStreams(ctx, v, epoch); err != nil {
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
