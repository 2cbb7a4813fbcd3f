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
	Worlds   int
	Injected [kinds]uint64
	Seeds    [kinds]uint64 // worlds that had it
	Steps    uint64
	Counts
}

// Counts is what else happened.
type Counts struct {
	IOs, Messages, Requests uint64
	Opened                  uint64 // openings that ended

	Snapshots, Groups uint64 // taken
	Clones, Flattened uint64
	Rolled            uint64 // disks rolled back
	Deleted, Retired  uint64 // disks; those of them that had snapshots
	Trashed, Back     uint64 // disks put into the trash; disks and snapshots that came back

	Archived, Increments, UploadsFailed uint64 // snapshots; of these against another; tries
	Unarchived, Reclaimed               uint64 // snapshots taken out; objects deleted
	Restored, Hydrated                  uint64 // disks made from the archive; those that were brought in wholly

	Cleaned  uint64 // segments rewritten or merged
	Repaired uint64 // groups that were moved, and are whole
	Balanced uint64 // slots that moved to emptier stores
	Recoded  uint64 // groups that got a better code, and have nothing of the older one left
	Mended   uint64 // wrong shards that were put right
}

// count is a line of the table.
type count struct {
	name string
	n    *uint64
}

// all are the lines, in the order of the table.
func (c *Counts) all() []count {
	return []count{
		{"disk I/Os", &c.IOs}, {"messages", &c.Messages}, {"client requests", &c.Requests}, {"openings", &c.Opened},
		{"snapshots taken", &c.Snapshots}, {"... groups of them", &c.Groups},
		{"snapshots archived", &c.Archived}, {"... against another", &c.Increments}, {"... taken out again", &c.Unarchived},
		{"uploads failed", &c.UploadsFailed}, {"objects reclaimed", &c.Reclaimed},
		{"disks made from the archive", &c.Restored}, {"... brought in wholly", &c.Hydrated},
		{"clones made", &c.Clones}, {"... flattened", &c.Flattened}, {"disks rolled back", &c.Rolled},
		{"disks deleted", &c.Deleted}, {"... with snapshots", &c.Retired}, {"... into the trash", &c.Trashed}, {"back from the trash", &c.Back},
		{"segments cleaned", &c.Cleaned}, {"groups moved and filled", &c.Repaired}, {"slots balanced", &c.Balanced},
		{"groups coded anew", &c.Recoded}, {"wrong shards mended", &c.Mended},
	}
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
	c.Steps += o.Steps
	theirs := o.all()
	for i, x := range c.all() {
		*x.n += *theirs[i].n
	}
}

// Missing are the faults that no world had, and what else never happened.
func (c *Coverage) Missing() (out []string) {
	for k := Kind(1); k < kinds; k++ {
		if c.Seeds[k] == 0 {
			out = append(out, k.String())
		}
	}
	for _, x := range c.all() {
		if *x.n == 0 {
			out = append(out, x.name)
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
	fmt.Fprintf(t, "\t\t\n")
	for _, x := range c.all() {
		fmt.Fprintf(t, "%s\t%d\t\n", x.name, *x.n)
	}
	return 0, t.Flush()
}
