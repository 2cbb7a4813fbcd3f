// Package storetest is the conformance suite of storeproto.Store: every body, in
// memory, on a disk or behind a wire, passes it. It also has what tests of stores
// need: batches, shards, and calls that wait for their answer.
package storetest

import (
	"context"
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
)

// Harness is one store under test.
type Harness struct {
	Store storeproto.Store
	// Advance lets time pass for the store: moves its clock, or waits.
	Advance func(time.Duration)
	// LeaseTerm is the length of its grants.
	LeaseTerm time.Duration
	// Restart closes the store and opens it again. The test of durability is left out if nil.
	Restart func() storeproto.Store
}

// Run runs the suite; open gives a new, empty store each time, at least one lease
// term after its start, and cleans up by t.
func Run(t *testing.T, open func(t *testing.T) *Harness) {
	for name, f := range map[string]func(*testing.T, *Harness){
		"AppendFollowsTheTail":                   appendFollowsTheTail,
		"ResentBatchIsDurableOtherIsConflict":    resentBatch,
		"AppendNeedsItsEnsemblesEpoch":           appendEpochs,
		"BatchEpochsNeverFall":                   batchEpochsNeverFall,
		"CopyGoesIntoAnOlderEnsemble":            copyIntoOlder,
		"DamagedBatchIsRefused":                  damagedBatch,
		"AnswersComeInTheOrderOfTheCalls":        answersInOrder,
		"FenceRefusesLowerEpochs":                fenceRefuses,
		"FenceQueuesBehindAdmittedAppends":       fenceQueues,
		"ListRaisesTheVersionOfItsGroup":         listRaisesVersion,
		"ListGoesInPages":                        listInPages,
		"ReplaceKeepsItsPromises":                replaceKeepsPromises,
		"NextShardsGoInOrder":                    nextShardsInOrder,
		"CareIsKeptOverARestart":                 careIsKept,
		"RepairBringsNothingBack":                repairPuts,
		"FenceAgainIsHarmless":                   fenceAgain,
		"FenceIsOnceForBothStreams":              fenceBothStreams,
		"FetchGivesTheBatches":                   fetchGives,
		"ReleasedBatchesMayBeForgotten":          released,
		"TailMayMoveUpToReleased":                tailMovesUp,
		"DropForgetsForGood":                     dropForgets,
		"FenceWaitsForGrants":                    fenceWaitsForGrants,
		"AcknowledgedNamingEndsTheWait":          ackEndsWait,
		"ReleaseEndsTheWait":                     releaseEndsWait,
		"ReleaseOfAnOlderTermDoesNotEndTheWait":  oldReleaseWaits,
		"HigherNumberProvesTheLowerDead":         higherNumber,
		"HeldLeaseIsAnsweredByAFence":            heldLease,
		"OwnHostNeedNotBeWaitedFor":              ownHost,
		"ShardIsReadBack":                        shardReadBack,
		"PutAgainIsHarmlessOtherIsConflict":      putAgain,
		"PutBelowTheFenceIsStale":                putFenced,
		"DamagedShardIsRefused":                  damagedShard,
		"DeletedShardIsGoneAndCannotComeBack":    deletedShard,
		"DeleteKeepsHigherGenerations":           deleteKeepsHigher,
		"ReadOutOfRangeIsInvalid":                readOutOfRange,
		"EverythingAnsweredIsThereAfterARestart": restart,
	} {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
}

// Volume, and streams of it, as the suite uses them.
var (
	Volume  = id.Volume{1, 2, 3}
	HolderA = id.Holder{Host: "a", Number: 7}
	HolderB = id.Holder{Host: "b", Number: 3}
)

// Stream names a stream of Volume.
func Stream(e id.Epoch, n uint32, k storeproto.Kind) storeproto.Stream {
	return storeproto.Stream{Volume: Volume, Ensemble: id.Ensemble{Epoch: e, N: n}, Kind: k}
}

// Batch makes a sealed batch whose content follows from its arguments. Its
// payload, of so many blocks, is aligned.
func Batch(e id.Epoch, first id.LSN, count uint32, blocks int, seed uint64) *storeproto.Batch {
	b := &storeproto.Batch{Epoch: e, First: first, Count: count}
	b.Meta = binary.LittleEndian.AppendUint64(nil, seed)
	if blocks > 0 {
		p := buf.Get(blocks * storeproto.BlockSize)
		Fill(p.Bytes(), seed^uint64(first))
		b.Payload = [][]byte{p.Bytes()}
		for i := range blocks {
			b.Sums = append(b.Sums, codec.CRC(p.Bytes()[i*storeproto.BlockSize:][:storeproto.BlockSize]))
		}
		b.Free = func(*storeproto.Batch) { p.Release() }
	}
	b.Seal()
	return b
}

// Fill writes bytes that follow from seed.
func Fill(p []byte, seed uint64) {
	x := seed*0x9E3779B97F4A7C15 + 1
	for i := 0; i+8 <= len(p); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[i:], x)
	}
}

// Append appends and waits for the answer.
func Append(s storeproto.Store, a *storeproto.Append) (id.LSN, error) {
	done := make(chan struct{})
	a.Done = func(*storeproto.Append) { close(done) }
	s.Append(a)
	<-done
	return a.Tail, a.Err
}

// Next appends a batch to a stream under its ensemble's epoch.
func Next(s storeproto.Store, name storeproto.Stream, b *storeproto.Batch) (id.LSN, error) {
	return Append(s, &storeproto.Append{Stream: name, Epoch: name.Ensemble.Epoch, Batch: b, Base: b.First == 1})
}

// Confirm asks and waits for the answer.
func Confirm(s storeproto.Store, v id.Volume, e id.Epoch) error {
	done := make(chan error, 1)
	s.Confirm(&storeproto.Confirm{Volume: v, Epoch: e, Done: func(c *storeproto.Confirm) { done <- c.Err }})
	return <-done
}

// Lease asks for a grant; the answer comes on the channel.
func Lease(s storeproto.Store, h id.Holder, acked uint64, wait time.Duration) chan *storeproto.Lease {
	done := make(chan *storeproto.Lease, 1)
	s.Lease(&storeproto.Lease{Holder: h, Acked: acked, Wait: wait, Done: func(l *storeproto.Lease) { done <- l }})
	return done
}

// Fenced is the answer of a fence.
type Fenced struct {
	Reply storeproto.FenceReply
	Err   error
}

// Fence fences in the background and returns when the fence is in force.
func Fence(t *testing.T, s storeproto.Store, f storeproto.Fence) chan Fenced {
	t.Helper()
	done := make(chan Fenced, 1)
	go func() {
		r, err := s.Fence(t.Context(), f)
		done <- Fenced{r, err}
	}()
	for Confirm(s, f.Volume, f.Epoch-1) == nil {
		select {
		case r := <-done: // refused, or there already
			done <- r
			return done
		default:
			runtime.Gosched() // polling: the fence says nothing before its answer
		}
	}
	return done
}

// Shard makes a shard whose content follows from its arguments.
func Shard(seg id.Segment, g id.Generation, index uint8, blocks int, seed uint64) *storeproto.PutShard {
	h := &storeproto.ShardHead{Volume: Volume, Segment: seg, Generation: g, Index: index, K: 4, M: 2, PGVersion: 1,
		Slots: uint16(blocks), Blocks: uint16(blocks)}
	p := make([]byte, (blocks+1)*storeproto.BlockSize)
	p = p[:blocks*storeproto.BlockSize]
	Fill(p, seed)
	for i := range blocks {
		h.Entries = append(h.Entries, seed+uint64(i)*3)
		h.Sums = append(h.Sums, storeproto.BlockSum(codec.CRC(p[i*storeproto.BlockSize:][:storeproto.BlockSize]), seg, index, uint16(i)))
	}
	return &storeproto.PutShard{Head: h, Epoch: g.Epoch, Data: [][]byte{p}}
}

// Put puts and waits for the answer.
func Put(s storeproto.Store, p *storeproto.PutShard) error {
	done := make(chan struct{})
	p.Done = func(*storeproto.PutShard) { close(done) }
	s.PutShard(p)
	<-done
	return p.Err
}

// Read reads and waits for the answer.
func Read(s storeproto.Store, seg id.Segment, g id.Generation, index uint8, first, count uint16) *storeproto.ReadShard {
	done := make(chan struct{})
	r := &storeproto.ReadShard{Segment: seg, Generation: g, Index: index, First: first, Count: count,
		Dst: make([]byte, int(count)*storeproto.BlockSize), Sums: make([]uint32, count),
		Done: func(*storeproto.ReadShard) { close(done) }}
	s.ReadShard(r)
	<-done
	return r
}

// FetchAll reads a stream from an LSN on.
func FetchAll(ctx context.Context, s storeproto.Store, name storeproto.Stream, from id.LSN) ([]*storeproto.Batch, error) {
	var all []*storeproto.Batch
	for {
		r, err := s.Fetch(ctx, storeproto.Fetch{Stream: name, From: from, BytesMax: 64 << 10})
		if err != nil {
			return all, err
		}
		all = append(all, r.Batches...)
		if !r.More {
			return all, nil
		}
		from = all[len(all)-1].Last() + 1
	}
}
