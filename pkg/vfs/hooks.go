package vfs

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"ashlar.dev/pkg/clock"
)

// OpKind is what is done to a file.
type OpKind uint8

// The kinds. A sync is OpSync whether of data, file or directory.
const (
	OpRead OpKind = iota
	OpWrite
	OpSync
	OpCreate
	OpRemove
	OpRename
)

func (k OpKind) String() string {
	return [...]string{"read", "write", "sync", "create", "remove", "rename"}[k]
}

// Op is one call that a hook sees.
type Op struct {
	Kind   OpKind
	Path   string
	Offset int64 // -1: at the file's own position
	Len    int
	Direct bool // of a file from OpenDirect
}

func (o Op) String() string {
	return fmt.Sprintf("%s %s %d+%d", o.Kind, o.Path, o.Offset, o.Len)
}

// Hooks go around the calls of a file system. All may be nil and must be safe
// for concurrent use.
type Hooks struct {
	// Before runs first; its error is the call's. A ShortWrite lets a write do a part.
	Before func(Op) error
	// AfterSync runs when a sync that Before let pass is done; its error is the call's.
	AfterSync func(Op, error) error
	// AfterRead may change what was read.
	AfterRead func(Op, []byte)

	before bool // there is nothing but Before
}

// ShortWrite as the error of a hook lets a write do its first bytes only.
type ShortWrite int

func (s ShortWrite) Error() string { return fmt.Sprintf("injected: only %d bytes written", int(s)) }

// WithHooks puts hooks around fs.
func WithHooks(fs FS, h Hooks) FS {
	h.before = h.AfterRead == nil
	if h.Before == nil {
		h.Before = func(Op) error { return nil }
	}
	if h.AfterSync == nil {
		h.AfterSync = func(_ Op, err error) error { return err }
	}
	if h.AfterRead == nil {
		h.AfterRead = func(Op, []byte) {}
	}
	return &hookFS{FS: fs, h: h}
}

// Delay makes every sync of fs take d longer: the debug setting sync_delay.
func Delay(fs FS, c clock.Clock, d time.Duration) FS {
	if d <= 0 {
		return fs
	}
	return WithHooks(fs, Hooks{Before: func(op Op) error {
		if op.Kind == OpSync {
			return c.Sleep(context.Background(), d)
		}
		return nil
	}})
}

// Counter counts what passes; its numbers may be read at any time.
type Counter struct {
	Syncs, Writes, WriteBytes, Reads, ReadBytes atomic.Int64
}

// Count counts the calls of fs in c.
func Count(fs FS, c *Counter) FS {
	return WithHooks(fs, Hooks{Before: func(op Op) error {
		switch op.Kind {
		case OpSync:
			c.Syncs.Add(1)
		case OpWrite:
			c.Writes.Add(1)
			c.WriteBytes.Add(int64(op.Len))
		case OpRead:
			c.Reads.Add(1)
			c.ReadBytes.Add(int64(op.Len))
		}
		return nil
	}})
}
