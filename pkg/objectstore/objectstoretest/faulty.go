// Package objectstoretest has what tests of archives need: a store that fails when told to and
// counts, a store in memory, and an S3 server with every bad habit. Safe for concurrent use.
package objectstoretest

import (
	"context"
	"sync"

	"ashlar.dev/pkg/objectstore"
	"ashlar.dev/pkg/vfs"
)

// NewMemory makes an empty store in memory.
func NewMemory() objectstore.Store {
	d, err := objectstore.NewDirectory(vfs.NewCrash(), "/archive")
	if err != nil {
		panic("objectstoretest: " + err.Error()) // memory does not fail
	}
	return d
}

// Op is one request to a store.
type Op struct {
	Name   string // "put", "putnew", "readat", "head", "list", "delete", "extend"
	Key    string // prefix, of a list
	Offset int64
	Body   []byte // of a put
	Dst    []byte // of a read
}

// Faulty asks before and after each request whether it is to fail. Set the hooks before use.
type Faulty struct {
	objectstore.Store
	Before func(Op) error // its error is the answer; nothing was done
	After  func(Op) error // its error is the answer; it was done. It may spoil what was read

	mu     sync.Mutex
	counts map[string]int
	puts   map[string]int
}

// Count tells how many requests of a name were made, failed ones too.
func (f *Faulty) Count(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[name]
}

// Puts tells how often each key was put, or tried to be.
func (f *Faulty) Puts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make(map[string]int, len(f.puts))
	for k, n := range f.puts {
		out[k] = n
	}
	return out
}

func (f *Faulty) do(o Op, body func() error) error {
	f.mu.Lock()
	if f.counts == nil {
		f.counts, f.puts = make(map[string]int), make(map[string]int)
	}
	f.counts[o.Name]++
	if o.Name == "put" || o.Name == "putnew" {
		f.puts[o.Key]++
	}
	f.mu.Unlock()
	if f.Before != nil {
		if err := f.Before(o); err != nil {
			return err
		}
	}
	if err := body(); err != nil {
		return err
	}
	if f.After != nil {
		return f.After(o)
	}
	return nil
}

// Put is part of objectstore.Store.
func (f *Faulty) Put(ctx context.Context, key string, body []byte) error {
	return f.do(Op{Name: "put", Key: key, Body: body}, func() error { return f.Store.Put(ctx, key, body) })
}

// PutNew is part of objectstore.Store.
func (f *Faulty) PutNew(ctx context.Context, key string, body []byte) error {
	return f.do(Op{Name: "putnew", Key: key, Body: body}, func() error { return f.Store.PutNew(ctx, key, body) })
}

// PutLocked is part of objectstore.Store: a "putnew", too.
func (f *Faulty) PutLocked(ctx context.Context, key string, body []byte, l objectstore.Lock) error {
	return f.do(Op{Name: "putnew", Key: key, Body: body}, func() error { return f.Store.PutLocked(ctx, key, body, l) })
}

// Extend is part of objectstore.Store.
func (f *Faulty) Extend(ctx context.Context, key string, l objectstore.Lock) error {
	return f.do(Op{Name: "extend", Key: key}, func() error { return f.Store.Extend(ctx, key, l) })
}

// ReadAt is part of objectstore.Store.
func (f *Faulty) ReadAt(ctx context.Context, key string, dst []byte, offset int64) error {
	return f.do(Op{Name: "readat", Key: key, Offset: offset, Dst: dst}, func() error { return f.Store.ReadAt(ctx, key, dst, offset) })
}

// Head is part of objectstore.Store.
func (f *Faulty) Head(ctx context.Context, key string) (i objectstore.Info, err error) {
	err = f.do(Op{Name: "head", Key: key}, func() error { i, err = f.Store.Head(ctx, key); return err })
	return i, err
}

// List is part of objectstore.Store.
func (f *Faulty) List(ctx context.Context, prefix, after string, limit int) (out []objectstore.Info, err error) {
	err = f.do(Op{Name: "list", Key: prefix}, func() error { out, err = f.Store.List(ctx, prefix, after, limit); return err })
	return out, err
}

// Delete is part of objectstore.Store.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.do(Op{Name: "delete", Key: key}, func() error { return f.Store.Delete(ctx, key) })
}
