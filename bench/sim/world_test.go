package sim

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// compressors makes those of the process, before any world: they are of all worlds, and what is made in one bubble
// cannot be used in another.
var compressors = sync.OnceValue(func() error {
	data := make([]byte, block.Size)
	for i := range data {
		data[i] = byte(uint32(i) * 2654435761 >> 20 & 15) // repeats hardly, and can be coded well: for both
	}
	b := archive.NewBuilder("data/x/0", nil)
	b.Add(id.MakeSegment(1, 1), []archive.Slot{{Number: 0, Entry: segment.MakeData(1), Sum: codec.CRC(data)}}, data)
	body, o, _ := b.Finish()
	_, _, err := archive.ParseObject(o.Key, body, nil, func(*archive.Part, []byte) error { return nil })
	return err
})

// run lives one world.
func run(t *testing.T, cfg Config) (w *World, err error) {
	t.Helper()
	if err := compressors(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		cfg.Quiesce = synctest.Wait
		if os.Getenv("TRACE") != "" {
			cfg.Trace = func(s string) { t.Log(s) }
		}
		w = New(cfg)
		err = w.Live()
	})
	return w, err
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// fail tells how to see it again.
func fail(t *testing.T, w *World, err error) {
	t.Helper()
	lines := w.Tail(50)
	t.Errorf("%v\nagain: SEED=%d make sim (TRACE=1 for all of it)\n... %s", err, w.cfg.Seed, strings.Join(lines, "\n    "))
}

// What every world must have had, however it is made.
const (
	iosMin    = 10_000
	faultsMin = 20
)

// unitSeeds is how many worlds a plain go test lives.
const unitSeeds = 1

// Without this no interplay of engines, stores, metad, repair and cleaning under faults
// would be tried as a whole: each room's own world believes the others.
func TestWorlds(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(300)) // what a world keeps is small beside what it throws away
	first, n := setting(t, "FROM", 1), setting(t, "SEEDS", unitSeeds)
	if s := setting(t, "SEED", 0); s > 0 {
		first, n = s, 1
	}
	var mu sync.Mutex
	var sum Coverage
	next := first
	t.Run("seeds", func(t *testing.T) {
		for range min(n, uint64(runtime.GOMAXPROCS(0))) {
			t.Run("worker", func(t *testing.T) {
				t.Parallel()
				for !t.Failed() || n > 100 {
					mu.Lock()
					seed := next
					next++
					mu.Unlock()
					if seed >= first+n {
						return
					}
					w, err := run(t, ForSeed(seed))
					c := w.Coverage()
					if err != nil {
						fail(t, w, err)
					} else if c.IOs < iosMin || c.faults() < faultsMin {
						t.Errorf("seed %d passes with %d I/Os and %d faults", seed, c.IOs, c.faults())
					}
					mu.Lock()
					sum.Merge(c)
					mu.Unlock()
				}
			})
		}
	})
	var table strings.Builder
	if _, err := sum.WriteTo(&table); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d worlds\n%s", sum.Worlds, table.String())
	if missing := sum.Missing(); n >= 100 && len(missing) > 0 {
		t.Errorf("no world had: %v", missing)
	}
}

// Without this a mistake that shows only when nothing fails would hide behind faults.
func TestCalmWorld(t *testing.T) {
	cfg := ForSeed(1)
	cfg.Calm, cfg.IOs = true, 1500
	w, err := run(t, cfg)
	if err != nil {
		fail(t, w, err)
	}
}

// Without this a world in which hardly anything happens would count as one that held.
func TestWorldWithTooFewFaultsFails(t *testing.T) {
	cfg := ForSeed(1)
	cfg.IOs, cfg.Faults, cfg.Patience = 1, 20, 100*time.Millisecond
	if w, err := run(t, cfg); err == nil || !strings.Contains(err.Error(), string(CheckWorld)) {
		t.Errorf("%d faults: %v", w.Coverage().faults(), err)
	}
}

// Without this a failing seed could not be looked into: it would be another world.
func TestSameSeedSameTrace(t *testing.T) {
	cfg := ForSeed(3)
	cfg.IOs, cfg.Faults = 2000, 8
	a, errA := run(t, cfg)
	b, errB := run(t, cfg)
	if a.Hash() != b.Hash() || a.steps != b.steps || a.steps == 0 {
		t.Errorf("%d steps with trace %x, then %d with %x: %v and %v", a.steps, a.Hash(), b.steps, b.Hash(), errA, errB)
	}
}

// Seeds that failed once, and what was behind.
func TestSeedsThatFailed(t *testing.T) {
	for _, c := range []struct {
		name string
		seed uint64
	}{
		{"openings that break off fill the list of a disk", 12},
		{"the store that was always there is lost while another slot moves, and a list grows for ever", 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := run(t, ForSeed(c.seed))
			if err != nil {
				fail(t, w, err)
			}
		})
	}
}
