package volume_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"ashlar.dev/blockd/volume"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
)

// register is half a block: the unit of the histories.
const register = 2048

// call is what a client asked of one register; out is what a read gave.
type call struct {
	at    int
	write bool
	value uint64
}

// registers is the model: every register holds the value of the last write.
var registers = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		by := make(map[int][]porcupine.Operation)
		for _, o := range h {
			at := o.Input.(call).at
			by[at] = append(by[at], o)
		}
		var out [][]porcupine.Operation
		for _, p := range by {
			out = append(out, p)
		}
		return out
	},
	Init: func() any { return uint64(0) },
	Step: func(state, in, out any) (bool, any) {
		if c := in.(call); c.write {
			return true, c.value
		}
		return out == state, state
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v %v", in, out) },
}

// history is what several clients saw.
type history struct {
	t    *testing.T
	mu   sync.Mutex
	ops  []porcupine.Operation
	next atomic.Uint64
	fail atomic.Int64 // requests that ended with a stale epoch
}

func (h *history) add(client int, c call, out uint64, from time.Duration, known bool) {
	to := int64(clock.System.Now())
	if !known {
		to = 1 << 62 // it may happen at any time from its call on, or never
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: c, Output: out, Call: int64(from), Return: to})
}

// certain gives the history without the writes of unknown outcome that nobody saw:
// whether they happened makes no difference.
func (h *history) certain() (out []porcupine.Operation) {
	seen := make(map[[2]uint64]bool)
	for _, o := range h.ops {
		if c := o.Input.(call); !c.write {
			seen[[2]uint64{uint64(c.at), o.Output.(uint64)}] = true
		}
	}
	for _, o := range h.ops {
		if c := o.Input.(call); !c.write || o.Return < 1<<62 || seen[[2]uint64{uint64(c.at), c.value}] {
			out = append(out, o)
		}
	}
	return out
}

// client reads and writes registers through whatever handle it has, until stop.
func (h *history) client(n int, rng *rand.Rand, current *atomic.Pointer[volume.Volume], blocks int, stop chan struct{}) {
	vol := current.Load()
	for {
		select {
		case <-stop:
			return
		default:
		}
		at, count := rng.IntN(2*blocks), 1
		if rng.IntN(2) == 0 {
			at, count = at&^1, 2
		}
		b := make([]byte, count*register)
		from := clock.System.Now()
		var err error
		isWrite := rng.IntN(3) > 0
		value := uint64(0)
		if isWrite {
			value = h.next.Add(1)
			for i := 0; i < len(b); i += 8 {
				binary.LittleEndian.PutUint64(b[i:], value)
			}
			err = write(vol, uint64(at*register), b)
		} else {
			b, err = readBack(vol, uint64(at*register), len(b))
		}
		for i := range count {
			c := call{at: at + i, write: isWrite, value: value}
			switch {
			case isWrite:
				h.add(n, c, 0, from, err == nil)
			case err == nil:
				h.add(n, c, h.whole(b[i*register:][:register]), from, true)
			}
		}
		if err != nil {
			h.fail.Add(1)
			if !errors.Is(err, errs.ErrStaleEpoch) && !errors.Is(err, errs.ErrClosed) {
				h.t.Errorf("client %d: %v", n, err)
				return
			}
			vol = current.Load()
			pause(time.Millisecond) // the new owner may be on its way
		}
	}
}

// whole gives the value of a register and insists that it is not torn.
func (h *history) whole(b []byte) uint64 {
	v := binary.LittleEndian.Uint64(b)
	for i := 8; i < len(b); i += 8 {
		if x := binary.LittleEndian.Uint64(b[i:]); x != v {
			h.t.Errorf("a register is torn: %d and %d", v, x)
		}
	}
	return v
}

// Without this a takeover, with the old owner dead or only believed to be, could
// lose an acknowledged write, or a client of the old owner read what is stale.
func TestTakeoversKeepEveryRegister(t *testing.T) {
	r := newRig(t, 3, 2, 4, 2)
	r.limits.LongBlocksMin = -1
	v := id.Volume{1}
	const blocks = 24
	r.metad.Create(v, 4*mib)
	rng := seed(t)
	h := &history{t: t}
	var current atomic.Pointer[volume.Volume]
	e := r.engine("b1")
	current.Store(e.mustOpen(v))
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 6 {
		own := rand.New(rand.NewPCG(rng.Uint64(), uint64(n)))
		clients.Go(func() { h.client(n, own, &current, blocks, stop) })
	}
	for round := range 6 {
		pause(time.Duration(20+rng.IntN(60)) * time.Millisecond)
		host := id.Host(fmt.Sprintf("b%d", 1+round%3))
		switch rng.IntN(3) {
		case 0: // the process dies
			current.Load().Abandon()
			e.Kill()
		case 1: // it hands over
			ctx, cancel := timeout(10 * time.Second)
			if err := current.Load().Close(ctx); err != nil {
				t.Errorf("close: %v", err)
			}
			cancel()
		} // or it lives on as a zombie
		e = r.engine(host)
		current.Store(e.mustOpen(v))
	}
	pause(50 * time.Millisecond)
	close(stop)
	clients.Wait()
	t.Logf("%d operations, %d cut off", len(h.ops), h.fail.Load())
	switch result := porcupine.CheckOperationsTimeout(registers, h.certain(), 20*time.Second); result {
	case porcupine.Illegal:
		t.Fatal("the history is not that of registers")
	case porcupine.Unknown:
		t.Log("the history is too long to be sure")
	}
}

// once counts how often a request completes.
type once struct {
	n    atomic.Int32
	err  error
	done *sync.WaitGroup
}

func (o *once) Completed(_ *nbd.Request, err error) {
	o.err = err
	if o.n.Add(1) == 1 {
		o.done.Done()
	}
}

// Without this a client would wait for ever for a request of a volume that ended, or
// be answered twice.
func TestAbandonEndsEveryRequestOnce(t *testing.T) {
	for round := range 5 {
		r := newRig(t, 3, 1, 1, 2)
		vol, f, e := r.disk(4 * mib)
		f.put(vol, 0, mib)
		for i := range 2 {
			r.stores[i].Pause()
		}
		var done sync.WaitGroup
		var all []*once
		ask := func(op nbd.Op, off, n uint64) {
			o := &once{done: &done}
			done.Add(1)
			all = append(all, o)
			vol.Submit(nbd.NewRequest(op, 0, off, n, nil, o))
		}
		for i := range uint64(20) {
			ask(nbd.OpWrite, i*4096, 4096)
			ask(nbd.OpWrite, i*4096+100, 5000)
			ask(nbd.OpRead, i*10_000, 9_000)
			ask(nbd.OpTrim, i*4096, 8192)
			ask(nbd.OpWriteZeroes, i*4096+1, 8192)
			ask(nbd.OpFlush, 0, 0)
			ask(nbd.OpBlockStatus, 0, mib)
		}
		ask(nbd.OpWrite, mib, 256<<10)
		ask(nbd.OpWrite, 0, 2*mib)
		if round%2 == 0 {
			vol.Abandon()
		} else {
			go func() {
				for _, s := range r.stores {
					s.Resume()
				}
			}()
			if _, err := r.engine("b1").open(vol.ID()); err != nil {
				t.Fatal(err)
			}
		}
		done.Wait()
		for _, s := range r.stores {
			s.Resume()
		}
		vol.Abandon()
		e.Kill()
		for i, o := range all {
			if o.n.Load() != 1 || o.err != nil && !errors.Is(o.err, errs.ErrStaleEpoch) {
				t.Fatalf("request %d completed %d times: %v", i, o.n.Load(), o.err)
			}
		}
	}
}
