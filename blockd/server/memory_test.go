package server

import (
	"fmt"
	"testing"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"

	"ashlar.dev/blockd/chunk"
	"ashlar.dev/blockd/reader"
	"ashlar.dev/blockd/volume/core"
	"ashlar.dev/pkg/blockmap"
	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/rpc"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/telemetry"
	"ashlar.dev/pkg/vfs"
)

// noExports has none.
type noExports struct{ nbd.Exports }

// bounded is a server of which only memory is asked.
func bounded(t *testing.T) *server {
	t.Helper()
	s := &server{rpcStats: &rpc.Stats{}, registry: telemetry.NewRegistry("blockd")}
	s.cfg.EnsureDefaults()
	s.buffers, s.budget = core.NewMemory(s.cfg.Memory.WriteBuffer.Int64()), blockmap.NewBudget(1000)
	s.cache = reader.NewCache(1 << 20)
	for range 5 {
		s.shares = append(s.shares, rpc.NewBudget(int(s.cfg.Memory.PeerRequests/6)))
	}
	fs := vfs.Wrap(pvfs.NewMem())
	if _, err := chunk.Format("/s", chunk.FormatOptions{ID: id.Store{1}, Incarnation: id.Incarnation{2}, FS: fs, LogFileBytes: 256 << 10, LogFilesMax: 6, ExtentBytes: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	st, err := chunk.Open("/s", chunk.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() }) // nothing was written that could be lost
	s.local.set([]*localStore{{Store: st}})
	s.nbd, err = nbd.NewServer(nbd.Config{Exports: noExports{}, Limits: nbd.Limits{ServerBytesMax: s.cfg.Memory.ClientRequests.Int64()}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func use(t *testing.T, s *server, name string) cluster.Memory {
	t.Helper()
	for _, m := range s.memory() {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no row for %q", name)
	return cluster.Memory{}
}

// Every use of memory has a limit that is not zero, those within another fit into it, and the block
// cache, filled with more than it holds, stays at its own.
func TestEveryUseOfMemoryIsBounded(t *testing.T) {
	s := bounded(t)
	block := make([]byte, storeproto.BlockSize)
	for range 2 { // what is asked for again is kept
		for i := range uint64(2000) {
			s.cache.Put(id.Location(i+1), block)
		}
	}
	if u := use(t, s, "block cache"); u.Used > u.Limit || u.Used < u.Limit*3/4 || u.Limit != 1<<20 {
		t.Errorf("%+v after twice as many blocks", u)
	}
	within := make(map[string]uint64)
	for _, m := range s.memory() {
		if m.Limit == 0 && m.Name != "peer connections" {
			t.Errorf("%s has no limit", m.Name)
		}
		if m.Within != "" {
			within[m.Within] += m.Limit
		}
	}
	for name, sum := range within {
		if u := use(t, s, name); u.Limit < sum {
			t.Errorf("%s may take %d bytes, what lies within it %d", name, u.Limit, sum)
		}
	}
	b := buf.Get(1 << 20)
	defer b.Release()
	if u := use(t, s, payload); u.Used < 1<<20 {
		t.Errorf("%+v while a MiB is held", u)
	}
	if got, want := fmt.Sprint(use(t, s, "peer requests").Limit), fmt.Sprint(5*(s.cfg.Memory.PeerRequests.Int64()/6)); got != want {
		t.Errorf("peer requests are limited to %s, want %s", got, want)
	}
}
