package devcluster

import (
	crand "crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// Plan is what the first run decides, and all later ones keep.
type Plan struct {
	// Folder of the unix sockets; short, because a socket's path has at most 107 bytes.
	Sockets string `yaml:"sockets"`
	// Size of each store.
	StoreSize config.ByteSize `yaml:"store_size"`
	// The metadata group.
	Metads []MetadPlan `yaml:"metads"`
	// The storage daemons.
	Blockds []BlockdPlan `yaml:"blockds"`
	// The archive's daemon.
	Snapshotd *SnapshotdPlan `yaml:"snapshotd,omitempty"`
}

// MetadPlan is one metad; the addresses are host:port.
type MetadPlan struct {
	ID    string `yaml:"id"`
	API   string `yaml:"api"`
	Raft  string `yaml:"raft"`
	Debug string `yaml:"debug"`
}

// BlockdPlan is one blockd; the addresses are host:port.
type BlockdPlan struct {
	ID     string `yaml:"id"`
	Data   string `yaml:"data"`
	NBD    string `yaml:"nbd"`
	Debug  string `yaml:"debug"`
	Stores int    `yaml:"stores"`
	// Stores that were added since.
	Added []StorePlan `yaml:"added,omitempty"`
}

// Bounds and defaults of a plan.
const (
	metadsDefault    = 3
	metadsMax        = 7
	blockdsDefault   = 3
	blockdsMax       = 32
	storesDefault    = 2
	storesMax        = 16
	storeSizeDefault = 10 * config.GiB
	storeSizeMin     = 512 * config.MiB // blockd's
)

// newPlan turns what was asked for into a plan with ports and a folder for sockets.
func newPlan(o Options) (*Plan, error) {
	o.Metads, o.Blockds, o.Stores = orDefault(o.Metads, metadsDefault), orDefault(o.Blockds, blockdsDefault), orDefault(o.Stores, storesDefault)
	o.StoreSize = orDefault(o.StoreSize, storeSizeDefault)
	switch {
	case o.Metads < 1 || o.Metads > metadsMax || o.Metads%2 == 0:
		return nil, fmt.Errorf("%d metads: want 1, 3, 5 or 7, so that a majority is clear: %w", o.Metads, errs.ErrInvalid)
	case o.Blockds < 1 || o.Blockds > blockdsMax:
		return nil, fmt.Errorf("%d blockds: want 1 to %d: %w", o.Blockds, blockdsMax, errs.ErrInvalid)
	case o.Stores < 1 || o.Stores > storesMax:
		return nil, fmt.Errorf("%d stores each: want 1 to %d: %w", o.Stores, storesMax, errs.ErrInvalid)
	case o.StoreSize < storeSizeMin:
		return nil, fmt.Errorf("stores of %s: want at least %s: %w", o.StoreSize, storeSizeMin, errs.ErrInvalid)
	}
	ports, err := freePorts(3*o.Metads + 3*o.Blockds + 1)
	if err != nil {
		return nil, err
	}
	next := func() string {
		p := ports[0]
		ports = ports[1:]
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
	}
	p := &Plan{StoreSize: o.StoreSize}
	for i := range o.Metads {
		p.Metads = append(p.Metads, MetadPlan{ID: fmt.Sprintf("m%d", i+1), API: next(), Raft: next(), Debug: next()})
	}
	for i := range o.Blockds {
		p.Blockds = append(p.Blockds, BlockdPlan{ID: fmt.Sprintf("b%d", i+1), Data: next(), NBD: next(), Debug: next(), Stores: o.Stores})
	}
	p.Snapshotd = &SnapshotdPlan{ID: snapshotdID, Debug: next()}
	p.Sockets, err = socketFolder(filepath.Join(o.Dir, "run"))
	return p, err
}

func orDefault[T int | config.ByteSize](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// keeps complains when a later run asks for another shape than the folder has.
func (p *Plan) keeps(o Options) error {
	stores := 0
	if len(p.Blockds) > 0 {
		stores = p.Blockds[0].Stores
	}
	for _, x := range []struct {
		what       string
		asked, has uint64
	}{
		{"--metad", uint64(o.Metads), uint64(len(p.Metads))}, {"--blockd", uint64(o.Blockds), uint64(len(p.Blockds))},
		{"--stores", uint64(o.Stores), uint64(stores)}, {"--store-size", uint64(o.StoreSize), uint64(p.StoreSize)},
	} {
		if x.asked != 0 && x.asked != x.has {
			return fmt.Errorf("%s %d: the cluster in %s has %d, fixed at its first run; leave the flag out or use another folder: %w",
				x.what, x.asked, o.Dir, x.has, errs.ErrInvalid)
		}
	}
	return nil
}

// Ports are chosen below the range the kernel gives to outgoing connections, so that none
// of those can sit on a port we mean to come back to.
const (
	portFirst = 10000
	portLast  = 32000
	portTries = 5000
)

// freePorts gives n ports nobody listens on now, chosen at random so that two clusters
// seldom choose the same even while one of them is down.
func freePorts(n int) ([]int, error) {
	var seed [16]byte
	if _, err := crand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("choose ports: %w", err)
	}
	r := rand.New(rand.NewPCG(binary.LittleEndian.Uint64(seed[:]), binary.LittleEndian.Uint64(seed[8:])))
	taken := make(map[int]bool)
	var out []int
	for range portTries {
		if len(out) == n {
			return out, nil
		}
		port := portFirst + r.IntN(portLast-portFirst)
		if taken[port] {
			continue
		}
		taken[port] = true
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue // somebody has it
		}
		if err := ln.Close(); err != nil {
			return nil, fmt.Errorf("choose ports: %w", err)
		}
		out = append(out, port)
	}
	return nil, fmt.Errorf("found only %d of %d free ports: %w", len(out), n, errs.ErrUnavailable)
}

// socketPathMax leaves room below the kernel's 107 for a file name.
const socketPathMax = 90

// socketFolder is run if paths in it are short enough, else a new short folder.
func socketFolder(run string) (string, error) {
	if len(run) <= socketPathMax-len("/b32.sock") {
		return run, nil
	}
	var name [6]byte
	if _, err := crand.Read(name[:]); err != nil {
		return "", fmt.Errorf("choose socket folder: %w", err)
	}
	base := "/run"
	if syscall.Access(base, 2) != nil { // not writable
		base = os.TempDir()
	}
	return filepath.Join(base, "ashlar-"+hex.EncodeToString(name[:])), nil
}

// removeSockets leaves nothing behind outside the data folder; the next start makes it anew.
func (l layout) removeSockets(p *Plan) {
	if p.Sockets == filepath.Join(l.dir, "run") {
		return
	}
	for _, b := range p.Blockds {
		_ = os.Remove(l.socket(p, b.ID)) // a killed blockd leaves its own
	}
	_ = os.Remove(p.Sockets) // not if somebody put something else there
}

// ownFolder makes a folder that only we can enter, or checks that it is one: a folder in
// /tmp or /run of somebody else's making must not get our sockets.
func ownFolder(dir string) error {
	err := os.MkdirAll(filepath.Dir(dir), 0o755)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make folder: %w", err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("check folder: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || !ok || int(st.Uid) != os.Getuid() {
		return fmt.Errorf("folder %s is not ours: %w", dir, errs.ErrDenied)
	}
	return nil
}
