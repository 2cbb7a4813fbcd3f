package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/hashicorp/raft"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/telemetry"
)

func openStore(t testing.TB, fs vfs.FS, fatal func(string)) *LogStore {
	t.Helper()
	if fatal == nil {
		fatal = func(m string) { t.Errorf("fatal: %s", m) }
	}
	s, err := OpenLogStore(LogStoreOptions{Dir: "raft", FS: fs, Log: telemetry.Discard(), Fatal: fatal})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func entry(index, term uint64) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte(fmt.Sprintf("entry %d of term %d", index, term)), AppendedAt: time.Unix(5, int64(index))}
}

// logModel is what a LogStore promises, in a map.
type logModel struct {
	first, last uint64
	entries     map[uint64]uint64 // index to term
	stable      map[string]uint64
}

func newModel() *logModel {
	return &logModel{entries: map[uint64]uint64{}, stable: map[string]uint64{}}
}

func (m *logModel) clone() *logModel {
	c := newModel()
	c.first, c.last = m.first, m.last
	for k, v := range m.entries {
		c.entries[k] = v
	}
	for k, v := range m.stable {
		c.stable[k] = v
	}
	return c
}

// differs tells how s is not m.
func (m *logModel) differs(s *LogStore) string {
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil || first != m.first || last != m.last {
		return fmt.Sprintf("bounds %d to %d, want %d to %d (%v)", first, last, m.first, m.last, err)
	}
	for i := m.first; i != 0 && i <= m.last; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return fmt.Sprintf("entry %d: %v", i, err)
		}
		want := entry(i, m.entries[i])
		if l.Term != want.Term || !bytes.Equal(l.Data, want.Data) || !l.AppendedAt.Equal(want.AppendedAt) {
			return fmt.Sprintf("entry %d is %+v", i, l)
		}
	}
	for _, i := range []uint64{m.first - 1, m.last + 1} {
		var l raft.Log
		if err := s.GetLog(i, &l); i != 0 && !errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Sprintf("entry %d beside the log: %v", i, err)
		}
	}
	for k, v := range m.stable {
		if got, err := s.GetUint64([]byte(k)); err != nil || got != v {
			return fmt.Sprintf("stable %s is %d, want %d (%v)", k, got, v, err)
		}
	}
	return ""
}

// step makes one random change of both.
func step(t *testing.T, rng *rand.Rand, s *LogStore, m *logModel) (after *logModel, act func() error) {
	after = m.clone()
	switch rng.IntN(5) {
	default:
		var batch []*raft.Log
		next := m.last + 1
		if m.last == 0 {
			next = uint64(1 + rng.IntN(50)) // after a restored snapshot
			after.first = next
		}
		for range 1 + rng.IntN(8) {
			l := entry(next, uint64(rng.IntN(9)))
			after.entries[next], after.last = l.Term, next
			batch = append(batch, l)
			next++
		}
		return after, func() error { return s.StoreLogs(batch) }
	case 3:
		if m.last == 0 {
			return after, func() error { return s.DeleteRange(1, 10) }
		}
		cut := m.first + uint64(rng.IntN(int(m.last-m.first)+1))
		low, high := cut, m.last // a suffix that another leader overrules
		if rng.IntN(2) == 0 {
			low, high = m.first, cut // a prefix that a snapshot covers
		}
		switch {
		case low == m.first && high == m.last:
			after.first, after.last = 0, 0
		case low == m.first:
			after.first = high + 1
		default:
			after.last = low - 1
		}
		return after, func() error { return s.DeleteRange(low, high) }
	case 4:
		key, v := strconv.Itoa(rng.IntN(3)), rng.Uint64()
		after.stable[key] = v
		return after, func() error { return s.SetUint64([]byte(key), v) }
	}
}

// TestLogStoreSurvivesPowerLoss: raft counts an entry, a vote and a term as kept when
// the call returned. Lose one of them and two leaders of one term, or a forgotten
// commit, are possible. The memory disk is cloned before every sync, with a random part
// of what was not synced, and after every call: each clone must hold what had returned,
// and at most the change under way beside it.
func TestLogStoreSurvivesPowerLoss(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	disk := vfs.NewCrashableMem()
	var mu sync.Mutex // Pebble syncs from goroutines of its own
	var clones []*vfs.MemFS
	armed := false
	clone := func(atSync bool) {
		mu.Lock()
		defer mu.Unlock()
		if atSync && !armed {
			return
		}
		armed = false // one per call is enough
		clones = append(clones, disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}))
	}
	arm := func(yes bool) {
		mu.Lock()
		defer mu.Unlock()
		armed = yes
	}
	s := openStore(t, errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			clone(true)
		}
		return nil
	})), nil)
	m := newModel()
	for i := range 60 {
		after, act := step(t, rng, s, m)
		arm(i%3 == 0)
		must(t, act())
		arm(false)
		if i%2 == 0 {
			clone(false)
		}
		for _, c := range clones {
			crashed := openStore(t, c, nil)
			before, now := m.differs(crashed), after.differs(crashed)
			if now != "" && (before != "" || i%2 == 0 && c == clones[len(clones)-1]) {
				t.Fatalf("step %d: after a crash: %s; and not as before it: %s", i, now, before)
			}
			must(t, crashed.Close())
		}
		clones = clones[:0]
		m = after
		if i%20 == 19 {
			must(t, s.Close())
			s = openStore(t, disk, nil)
			if d := m.differs(s); d != "" {
				t.Fatalf("step %d: after reopening: %s", i, d)
			}
		}
	}
	must(t, s.Close())
}

// A gap would be a lost entry that nobody misses.
func TestLogStoreRefusesGaps(t *testing.T) {
	s := openStore(t, vfs.NewMem(), nil)
	defer s.Close()
	must(t, s.StoreLogs([]*raft.Log{entry(5, 1), entry(6, 1)}))
	if err := s.StoreLog(entry(8, 1)); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("a gap gave %v", err)
	}
	if err := s.StoreLogs([]*raft.Log{entry(7, 1), entry(9, 1)}); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("a gap within a batch gave %v", err)
	}
	if err := s.StoreLog(entry(6, 2)); !errors.Is(err, errs.ErrConflict) {
		t.Fatalf("overwriting gave %v", err)
	}
	must(t, s.StoreLog(entry(7, 1)))
	if err := s.DeleteRange(6, 6); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("a hole in the middle gave %v", err)
	}
}

// A store of a later format is left alone.
func TestLogStoreRefusesUnknownFormat(t *testing.T) {
	disk := vfs.NewMem()
	s := openStore(t, disk, nil)
	must(t, s.db.Set(keyFormat, []byte{9}, nil))
	must(t, s.Close())
	if _, err := OpenLogStore(LogStoreOptions{Dir: "raft", FS: disk, Log: telemetry.Discard()}); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("format 9 gave %v", err)
	}
	entry := encodeEntry(entry(1, 1))
	entry[0] = entryVersion + 1
	if err := decodeEntry(1, entry, new(raft.Log)); err == nil || !strings.Contains(err.Error(), "later version") {
		t.Fatalf("an entry of a later version gave %v", err)
	}
}

// TestFailingDiskEndsTheMember: Pebble cannot go on after a failed WAL write and calls
// Fatalf. The member says so, and the call neither returns success nor ends the process
// under it.
func TestFailingDiskEndsTheMember(t *testing.T) {
	broken := errors.New("broken disk")
	var bad errorfs.Injector = errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return broken
		}
		return nil
	})
	toggle := &errorfs.Toggle{Injector: bad}
	fatal := make(chan string, 1)
	s := openStore(t, errorfs.Wrap(vfs.NewMem(), toggle), func(m string) {
		select {
		case fatal <- m:
		default:
		}
	})
	failed := make(chan error, 4)
	w := &watched{LogStore: s, clock: clock.System, limit: time.Minute, fail: func(err error) { failed <- err }}
	must(t, w.StoreLog(entry(1, 1)))
	toggle.On()
	returned := make(chan error, 1)
	go func() { returned <- w.StoreLog(entry(2, 1)) }() // it may be parked for ever
	select {
	case <-fatal:
	case err := <-returned:
		if err == nil {
			t.Fatal("a write that failed was reported as durable")
		}
		if got := <-failed; !errors.Is(got, broken) {
			t.Fatalf("failed with %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed")
	}
}

// TestHangingDiskEndsTheMember: a leader whose disk hangs keeps its followers quiet with
// heartbeats and the whole group stands still.
func TestHangingDiskEndsTheMember(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, 64)
	hang := &errorfs.Toggle{Injector: errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			select {
			case entered <- struct{}{}:
			default:
			}
			<-release
		}
		return nil
	})}
	s := openStore(t, errorfs.Wrap(vfs.NewMem(), hang), nil)
	c := clock.NewManual()
	failed := make(chan error, 1)
	w := &watched{LogStore: s, clock: c, limit: 10 * time.Second, fail: func(err error) {
		select {
		case failed <- err:
		default:
		}
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.watch(ctx) }()
	must(t, w.StoreLog(entry(1, 1)))
	c.Advance(time.Hour) // idle is not hanging
	hang.On()
	go func() { done <- w.StoreLog(entry(2, 1)) }()
	<-entered
	for noticed := false; !noticed; {
		must(t, c.AwaitPending(ctx, 1))
		c.Advance(w.limit / 4)
		select {
		case err := <-failed:
			if !errors.Is(err, errs.ErrTimeout) {
				t.Fatal(err)
			}
			noticed = true
		default:
		}
	}
	cancel()
	close(release)
	must(t, <-done)
	must(t, <-done)
	must(t, s.Close())
}

// FuzzEntry: a log entry's bytes may be anything.
func FuzzEntry(f *testing.F) {
	f.Add(uint64(7), encodeEntry(entry(7, 3)))
	f.Add(uint64(1), encodeEntry(&raft.Log{Index: 1, Type: raft.LogConfiguration, Extensions: []byte("x")}))
	f.Fuzz(func(t *testing.T, index uint64, b []byte) {
		var l raft.Log
		if err := decodeEntry(index, b, &l); err != nil {
			if !errors.Is(err, errs.ErrCorrupt) {
				t.Fatalf("an error of no class: %v", err)
			}
			return
		}
		var again raft.Log
		must(t, decodeEntry(index, encodeEntry(&l), &again))
	})
}
