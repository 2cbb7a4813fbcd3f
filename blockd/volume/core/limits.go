package core

import (
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Limits are the bounds of one volume. The zero value of a field takes the default.
type Limits struct {
	// UnpackedBytesMax bounds the journal payload that is not yet packed, in
	// flight included; at it writers wait.
	UnpackedBytesMax int64
	// SealBlocks and SealBytes: the active memtable is sealed at as many distinct
	// blocks, or as many journalled bytes.
	SealBlocks int
	SealBytes  int64
	// SealIdle: it is sealed when nothing was written for as long.
	SealIdle time.Duration
	// BatchesInFlight bounds the journal appends that are not yet acknowledged;
	// what arrives meanwhile shares the next one.
	BatchesInFlight int
	// PacksInFlight bounds the segments that are being written behind, LongInFlight those of long writes.
	PacksInFlight int
	LongInFlight  int
	// LongBlocksMin: a write of as many whole blocks may go straight to a segment. 0 takes the default, negative: never.
	LongBlocksMin int
	// ReadPatience is how long a read waits for shards of which too few answer, before it fails.
	ReadPatience time.Duration
	// ReapRetry is after how long stores that could not be asked for leftovers are asked again, and
	// how long after an opening the checkpoint is cut that asking waits for, where none is due.
	ReapRetry time.Duration
	// CheckpointBytes of packed data or CheckpointMeta bytes of meta records since the last cause a
	// checkpoint, and so do CheckpointDirty dirty pages or CheckpointDead bytes of dead segments.
	CheckpointBytes int64
	CheckpointMeta  int64
	CheckpointDirty int
	CheckpointDead  int64
	// Less than CheckpointDead is enough where it is a sixteenth of what lives and CheckpointDeadMin;
	// and CheckpointTrifle bytes are, CheckpointIdle after the last one, if the volume is idle or
	// the pages to write are few against them.
	CheckpointDeadMin int64
	CheckpointTrifle  int64
	CheckpointIdle    time.Duration
	// The cleaner works while more is dead beside live blocks than CleanPercent of these and
	// CleanSlack bytes, less as stores fill up, and then writes CleanRate bytes a second or more.
	// CleanPercent negative: never. Of victims with fewer live slots than MergeBelow the blocks move.
	CleanPercent int
	MergeBelow   int
	CleanSlack   int64
	CleanRate    int64
	// PagesPercent, and CleanSlack, is how much may be dead beside living pages of the map.
	PagesPercent int
	// HydrateRate is the bytes a second that are brought in from an archive at most.
	HydrateRate int64
}

// hydrateRate is the default of Limits.HydrateRate, flattenRate that of SetFlatten.
const (
	hydrateRate = 100 << 20
	flattenRate = 100 << 20
)

// EnsureDefaults fills what is zero.
func (l *Limits) EnsureDefaults() {
	def := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	defInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&l.UnpackedBytesMax, 128<<20)
	defInt(&l.SealBlocks, id.SlotsMax)
	def(&l.SealBytes, 32<<20)
	if l.SealIdle == 0 {
		l.SealIdle = 2 * time.Minute
	}
	defInt(&l.BatchesInFlight, 3)
	defInt(&l.PacksInFlight, 3)
	defInt(&l.LongInFlight, 3)
	defInt(&l.LongBlocksMin, 64)
	if l.ReadPatience == 0 {
		l.ReadPatience = 30 * time.Second
	}
	if l.ReapRetry == 0 {
		l.ReapRetry = time.Minute
	}
	def(&l.CheckpointBytes, 1<<30)
	def(&l.CheckpointMeta, 8<<20)
	defInt(&l.CheckpointDirty, 8192)
	def(&l.CheckpointDead, 1<<30)
	def(&l.CheckpointDeadMin, 64<<20)
	def(&l.CheckpointTrifle, 1<<20)
	defInt(&l.CleanPercent, 32)
	defInt(&l.MergeBelow, id.SlotsMax/8)
	def(&l.CleanSlack, 32<<20)
	defInt(&l.PagesPercent, pagesPercent)
	def(&l.CleanRate, 32<<20)
	def(&l.HydrateRate, hydrateRate)
	if l.CheckpointIdle == 0 {
		l.CheckpointIdle = 5 * time.Second
	}
}

// Validate refuses limits that could not work together.
func (l *Limits) Validate() error {
	if l.SealBlocks < 1 || l.SealBlocks > id.SlotsMax {
		return fmt.Errorf("seal at %d blocks: want 1 to %d: %w", l.SealBlocks, id.SlotsMax, errs.ErrInvalid)
	}
	if l.UnpackedBytesMax < 2*l.SealBytes {
		return fmt.Errorf("unpacked limit of %d bytes is below two memtables of %d: %w", l.UnpackedBytesMax, l.SealBytes, errs.ErrInvalid)
	}
	return nil
}
