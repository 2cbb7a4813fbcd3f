package sim

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Kind is one kind of fault.
type Kind uint8

// The faults, those that are injected one by one before those that the network and
// crashes bring along.
const (
	PowerLoss Kind = iota + 1
	PowerLossAtIO
	PowerLossOfAll
	ProcessKill
	SyncError
	StoreLost
	StoreOut
	LogDamage
	ShardFlipped
	ShardLost
	ShardMisdirected
	StoreFull
	BucketAway
	WorkerKilled
	SlowDisk
	SlowNetwork
	OneWayCut
	Partition
	Pause
	Zombie
	ClockJump
	MetadClockJump
	MetadAway
	MetadLeader
	MetadRestored
	Takeover
	Handoff
	Drain
	Scrub
	Abandon

	TornWrite
	LostMessage
	LateMessage
	Duplicate
	BrokenLink
	MetadLate
	MetadAnswerLost
	BucketRefused
	BucketAnswerLost
	Rescue
	kinds
)

// active are those that count towards the faults of a world.
const active = Abandon

var kindNames = [kinds]string{
	PowerLoss: "host loses power", PowerLossAtIO: "host loses power at a chosen I/O", PowerLossOfAll: "all hosts lose power",
	ProcessKill: "process is killed", SyncError: "a sync fails", StoreLost: "disk lost and replaced", StoreOut: "host away until its stores are out",
	LogDamage: "journal log damaged (lost, flipped, misdirected)", ShardFlipped: "bit flipped in a shard", ShardLost: "write of a shard lost",
	ShardMisdirected: "write of a shard misdirected", StoreFull: "stores full", BucketAway: "archive away", WorkerKilled: "snapshotd killed", SlowDisk: "disk slow", SlowNetwork: "network slow", OneWayCut: "network cut one way",
	Partition: "owner alone with one store", Pause: "process paused", Zombie: "owner paused until it is replaced", ClockJump: "clock of a host jumps",
	MetadClockJump: "clock of metad's leader jumps", MetadAway: "metad away", MetadLeader: "metad's leader changes", MetadRestored: "metad restored from a backup", Takeover: "another host wants the disk",
	Handoff: "disk handed over", Drain: "store drained", Scrub: "store scrubbed", Abandon: "owner and clients of a disk away",
	TornWrite: "log write torn", LostMessage: "message lost", LateMessage: "message late, past a newer link", Duplicate: "message twice", BrokenLink: "link breaks",
	MetadLate: "question lands at metad after its end", MetadAnswerLost: "answer of metad lost",
	BucketRefused: "request to the archive fails", BucketAnswerLost: "answer of the archive lost", Rescue: "journal rescued",
}

func (k Kind) String() string { return kindNames[k] }

// Coverage counts the faults of a world, or of many.
type Coverage struct {
	Worlds    int
	Injected  [kinds]uint64
	Seeds     [kinds]uint64 // worlds that had it
	IOs       uint64
	Messages  uint64
	Steps     uint64
	Requests  uint64
	Orphans   uint64
	Cleaned   uint64 // segments rewritten or merged
	Opened    uint64 // openings that ended
	Repaired  uint64 // groups that were moved, and are whole
	Balanced  uint64 // slots that moved to emptier stores
	Recoded   uint64 // groups that got a better code, and have nothing of the older one left
	Snapshots uint64 // taken
	Clones    uint64 // made
	Rolled    uint64 // disks rolled back
	Deleted   uint64 // disks
	Retired   uint64 // disks deleted with snapshots
	Groups    uint64 // of snapshots, taken
	Flattened uint64 // clones
	Trashed   uint64 // disks put into the trash
	Back      uint64 // disks and snapshots that came back from there

	Archived, Increments, UploadsFailed uint64 // snapshots; of these against another; tries
	Restored, Hydrated                  uint64 // disks made from the archive; those that were brought in wholly
	Unarchived, Reclaimed               uint64 // snapshots taken out; objects deleted
	Mended                              uint64 // wrong shards that were put right
}

func (c *Coverage) add(k Kind) { c.Injected[k]++ }

// faults counts those that were injected one by one.
func (c *Coverage) faults() (n uint64) {
	for k := Kind(1); k <= active; k++ {
		n += c.Injected[k]
	}
	return n
}

// Merge adds a world's coverage.
func (c *Coverage) Merge(o *Coverage) {
	c.Worlds++
	for k := Kind(1); k < kinds; k++ {
		c.Injected[k] += o.Injected[k]
		if o.Injected[k] > 0 {
			c.Seeds[k]++
		}
	}
	c.IOs, c.Messages, c.Steps, c.Requests = c.IOs+o.IOs, c.Messages+o.Messages, c.Steps+o.Steps, c.Requests+o.Requests
	c.Orphans, c.Cleaned, c.Opened, c.Repaired = c.Orphans+o.Orphans, c.Cleaned+o.Cleaned, c.Opened+o.Opened, c.Repaired+o.Repaired
	c.Snapshots, c.Clones, c.Rolled, c.Deleted, c.Retired = c.Snapshots+o.Snapshots, c.Clones+o.Clones, c.Rolled+o.Rolled, c.Deleted+o.Deleted, c.Retired+o.Retired
	c.Archived, c.Increments, c.UploadsFailed = c.Archived+o.Archived, c.Increments+o.Increments, c.UploadsFailed+o.UploadsFailed
	c.Restored, c.Hydrated, c.Unarchived, c.Reclaimed = c.Restored+o.Restored, c.Hydrated+o.Hydrated, c.Unarchived+o.Unarchived, c.Reclaimed+o.Reclaimed
	c.Groups += o.Groups
	c.Trashed, c.Back = c.Trashed+o.Trashed, c.Back+o.Back
	c.Mended, c.Balanced, c.Recoded, c.Flattened = c.Mended+o.Mended, c.Balanced+o.Balanced, c.Recoded+o.Recoded, c.Flattened+o.Flattened
}

// Missing are the kinds that no world had.
func (c *Coverage) Missing() (out []Kind) {
	for k := Kind(1); k < kinds; k++ {
		if c.Seeds[k] == 0 {
			out = append(out, k)
		}
	}
	return out
}

// WriteTo writes the table for people.
func (c *Coverage) WriteTo(w io.Writer) (int64, error) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "FAULT\tINJECTED\tIN SEEDS\n") //lint:ignore errcheck the writer's Flush tells
	for k := Kind(1); k < kinds; k++ {
		fmt.Fprintf(t, "%s\t%d\t%d of %d\n", k, c.Injected[k], c.Seeds[k], c.Worlds)
	}
	fmt.Fprintf(t, "\t\t\ndisk I/Os\t%d\t\nmessages\t%d\t\nclient requests\t%d\t\nopenings\t%d\t\nsnapshots taken\t%d\t\n... groups of them\t%d\t\nsnapshots archived\t%d\t\n... against another\t%d\t\n... taken out again\t%d\t\nuploads failed\t%d\t\ndisks made from the archive\t%d\t\n... brought in wholly\t%d\t\nobjects reclaimed\t%d\t\nclones made\t%d\t\n... flattened\t%d\t\ndisks rolled back\t%d\t\ndisks deleted\t%d\t\n... with snapshots\t%d\t\n... into the trash\t%d\t\nback from the trash\t%d\t\nsegments cleaned\t%d\t\ngroups moved and filled\t%d\t\nslots balanced\t%d\t\ngroups coded anew\t%d\t\nwrong shards mended\t%d\t\norphans left by crashes\t%d\t\n",
		c.IOs, c.Messages, c.Requests, c.Opened, c.Snapshots, c.Groups, c.Archived, c.Increments, c.Unarchived, c.UploadsFailed, c.Restored, c.Hydrated, c.Reclaimed, c.Clones, c.Flattened, c.Rolled, c.Deleted, c.Retired, c.Trashed, c.Back, c.Cleaned, c.Repaired, c.Balanced, c.Recoded, c.Mended, c.Orphans)
	return 0, t.Flush()
}
