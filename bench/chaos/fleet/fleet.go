package fleet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/blockd/chunk"
	"ashlar.dev/pkg/vfs"
)

// Options say which fleet is wanted. Zeros are 3 metads, 3 blockds, 2 stores each.
type Options struct {
	BinDir                  string
	Metads, Blockds, Stores int
}

// Fleet is a cluster in namespaces. Its methods may be called at once, but not two on the same daemon.
type Fleet struct {
	Dir string
	// CLI runs commands on the cluster.
	CLI *cluster.Cluster

	o     Options
	wires wires
	nodes []*node
}

// node is one daemon.
type node struct {
	id, program, address string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	meant  bool // its end
	died   []string
}

const stopTimeout = 60 * time.Second

// New makes namespaces, certificates and configs; no daemon runs yet. Close ends everything.
func New(o Options) (*Fleet, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	if o.Metads == 0 {
		o.Metads, o.Blockds, o.Stores = 3, 3, 2
	}
	dir, err := os.MkdirTemp("", "ashlar-chaos-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	f := &Fleet{Dir: dir, o: o}
	for i := range o.Metads {
		f.nodes = append(f.nodes, &node{id: fmt.Sprintf("m%d", i+1), program: "metad"})
	}
	for i := range o.Blockds {
		f.nodes = append(f.nodes, &node{id: fmt.Sprintf("b%d", i+1), program: "blockd"})
	}
	var ids []string
	for _, n := range f.nodes {
		ids = append(ids, n.id)
	}
	if f.wires, err = newWires(ids); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for _, n := range f.nodes {
		n.address = f.wires.address(n.id)
	}
	if err := f.configure(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if f.CLI, err = cluster.Attach(dir, o.BinDir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Fleet) node(id string) *node {
	i := slices.IndexFunc(f.nodes, func(n *node) bool { return n.id == id })
	return f.nodes[i]
}

// Metads and Blockds are the daemons' names.
func (f *Fleet) Metads() []string { return f.named("metad") }

// Blockds are the names of the data daemons.
func (f *Fleet) Blockds() []string { return f.named("blockd") }

func (f *Fleet) named(program string) (out []string) {
	for _, n := range f.nodes {
		if n.program == program {
			out = append(out, n.id)
		}
	}
	return out
}

// StartAll starts every daemon that does not run.
func (f *Fleet) StartAll() error {
	for _, n := range f.nodes {
		if err := f.Start(n.id); err != nil {
			return err
		}
	}
	return nil
}

// Start starts a daemon; one that runs is left alone.
func (f *Fleet) Start(id string) error {
	n := f.node(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(f.log(id), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", id, err)
	}
	defer log.Close()
	// nsenter becomes the daemon: same process, so our signals reach it.
	cmd := exec.Command("nsenter", "--net="+f.wires.path(id), filepath.Join(f.o.BinDir, n.program), "--config", f.config(id))
	cmd.Dir, cmd.Stdout, cmd.Stderr = f.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", id, err)
	}
	exited := make(chan struct{})
	n.cmd, n.exited, n.meant = cmd, exited, false
	go func() {
		err := cmd.Wait()
		n.mu.Lock()
		if !n.meant {
			n.died = append(n.died, fmt.Sprintf("%s ended by itself: %v", id, err))
		}
		n.cmd = nil
		n.mu.Unlock()
		close(exited)
	}()
	return nil
}

// signal sends sig to a daemon that runs; meant says that it ends by our will.
func (n *node) signal(sig syscall.Signal, meant bool) (exited chan struct{}, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return nil, fmt.Errorf("%s to %s: it does not run", sig, n.id)
	}
	n.meant = n.meant || meant
	if err := n.cmd.Process.Signal(sig); err != nil {
		return nil, fmt.Errorf("%s to %s: %w", sig, n.id, err)
	}
	return n.exited, nil
}

// Kill ends a daemon by SIGKILL and returns when it is gone.
func (f *Fleet) Kill(id string) error {
	exited, err := f.node(id).signal(syscall.SIGKILL, true)
	if err != nil {
		return err
	}
	<-exited
	return nil
}

// Pause stops a daemon by SIGSTOP.
func (f *Fleet) Pause(id string) error {
	_, err := f.node(id).signal(syscall.SIGSTOP, false)
	return err
}

// Resume lets a paused daemon go on.
func (f *Fleet) Resume(id string) error {
	_, err := f.node(id).signal(syscall.SIGCONT, false)
	return err
}

// Store is a store of a blockd and where it lies.
type Store struct {
	ID  string
	Dir string
}

// Stores are what a blockd keeps its data in.
func (f *Fleet) Stores(id string) (out []Store, err error) {
	for i := range f.o.Stores {
		dir := f.store(id, i)
		s, err := chunk.ReadIdentity(vfs.OS, dir)
		if err != nil {
			return nil, err
		}
		out = append(out, Store{ID: s.ID.String(), Dir: dir})
	}
	return out, nil
}

// WipeStore takes a store of a dead daemon away; its next start formats another in its place.
func (f *Fleet) WipeStore(s Store) error { return os.RemoveAll(s.Dir) }

// WipeData takes away all that a dead daemon had on its disks, save its certificate and config.
func (f *Fleet) WipeData(id string) error {
	return errors.Join(os.RemoveAll(f.data(id)), os.Mkdir(f.data(id), 0o700))
}

// Addresses are where a metad is reached by clients and by its peers.
func (f *Fleet) Addresses(id string) (api, raft string) {
	n := f.node(id)
	return at(n.address, portAPI), at(n.address, portRaft)
}

// Cut drops everything between a daemon and the others named; oneWay leaves what the daemon itself sends.
func (f *Fleet) Cut(id string, from []string, oneWay bool) error {
	return f.wires.cut(id, from, oneWay)
}

// Mend takes back all cuts made at a daemon.
func (f *Fleet) Mend(id string) error { return f.wires.mend(id) }

// Stop ends all daemons in order, blockds first.
func (f *Fleet) Stop() error {
	var all error
	for _, program := range []string{"blockd", "metad"} {
		var wait []*node
		for _, n := range f.nodes {
			if n.program != program {
				continue
			}
			if _, err := n.signal(syscall.SIGTERM, true); err == nil { // else it does not run
				wait = append(wait, n)
			}
		}
		timeout := time.NewTimer(stopTimeout)
		for _, n := range wait {
			select {
			case <-n.exited:
			case <-timeout.C:
				all = errors.Join(all, fmt.Errorf("%s did not end within %s of SIGTERM", n.id, stopTimeout), f.Kill(n.id))
				timeout.Reset(time.Second)
			}
		}
		timeout.Stop()
	}
	return all
}

// Deaths are the daemons that ended without being told to.
func (f *Fleet) Deaths() (out []string) {
	for _, n := range f.nodes {
		n.mu.Lock()
		out = append(out, n.died...)
		n.mu.Unlock()
	}
	return out
}

// Logs are the files that the daemons log to.
func (f *Fleet) Logs() (out []string) {
	for _, n := range f.nodes {
		out = append(out, f.log(n.id))
	}
	return out
}

// Close kills what still runs and takes the namespaces down. The folder stays.
func (f *Fleet) Close() error {
	for _, n := range f.nodes {
		if exited, err := n.signal(syscall.SIGKILL, true); err == nil {
			<-exited
		}
	}
	return f.wires.close()
}

func (f *Fleet) log(id string) string    { return filepath.Join(f.Dir, "log", id+".log") }
func (f *Fleet) config(id string) string { return filepath.Join(f.Dir, "config", id+".yaml") }
func (f *Fleet) data(id string) string   { return filepath.Join(f.Dir, "data", id) }
func (f *Fleet) store(id string, n int) string {
	return filepath.Join(f.data(id), fmt.Sprintf("s%d", n+1))
}

// command runs a program and shows what it said if it failed.
func command(stdin string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Ports are the same on every daemon: each has an address of its own.
const (
	portAPI   = "7001"
	portRaft  = "7002"
	portData  = "7003"
	portNBD   = "10809"
	portDebug = "7004"
)

func at(address, port string) string { return net.JoinHostPort(address, port) }
