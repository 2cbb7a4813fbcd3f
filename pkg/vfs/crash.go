package vfs

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
)

// Crash is a file system in memory that can be cut off at any moment.
type Crash struct {
	FS
	mem    *pvfs.MemFS
	mu     sync.Mutex
	onSync func(n int)
	syncs  int
	off    atomic.Bool
}

// ErrPowerOff is what a file system answers that was cut.
var ErrPowerOff = errors.New("the power is off")

// NewCrash makes an empty one.
func NewCrash() *Crash { return newCrash(pvfs.NewCrashableMem()) }

func newCrash(mem *pvfs.MemFS) *Crash {
	c := &Crash{mem: mem}
	c.FS = WithHooks(Wrap(mem), Hooks{Before: c.before, AfterSync: func(_ Op, err error) error {
		if c.off.Load() { // a clone of the cut may lack it
			return ErrPowerOff
		}
		return err
	}})
	return c
}

func (c *Crash) before(op Op) error {
	if c.off.Load() {
		return ErrPowerOff
	}
	if op.Kind != OpSync {
		return nil
	}
	c.mu.Lock()
	c.syncs++
	f, n := c.onSync, c.syncs
	c.mu.Unlock()
	if f != nil {
		f(n)
	}
	return nil
}

// OnSync has f called before the n-th sync is carried out, for every n: all that
// was written since the last is in danger then. f may Clone.
func (c *Crash) OnSync(f func(n int)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onSync = f
}

// Clone gives what a power loss at this moment leaves: everything synced, and
// each block of 4 KiB and each name that is not with a chance of percent, by seed.
func (c *Crash) Clone(percent int, seed uint64) *Crash {
	return newCrash(c.mem.CrashClone(pvfs.CrashCloneCfg{
		UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, seed)),
	}))
}

// Cut ends the file system: from now on every call fails that it can, and a sync that is
// under way and does not end in time fails, too. So what Clone gives then has everything
// that anybody was told to be synced. Who cuts several first cuts all and then clones.
func (c *Crash) Cut() { c.off.Store(true) }

// Scrap gives back the memory of a file system that was cut and cloned. Who still has a file open keeps that one's.
func (c *Crash) Scrap() error {
	names, err := c.mem.List("/")
	for _, name := range names {
		err = errors.Join(err, c.mem.RemoveAll("/"+name))
	}
	if err != nil {
		return err
	}
	root, err := c.mem.OpenDir("/") // what was synced is kept until the next sync
	if err != nil {
		return err
	}
	return errors.Join(root.Sync(), root.Close())
}

// SetDiskUsage sets what GetDiskUsage tells.
func (c *Crash) SetDiskUsage(u pvfs.DiskUsage) { c.mem.TestingSetDiskUsage(u) }

// IsNotExist tells whether err says that a file is not there.
func IsNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
