package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Deadlines are for a slow machine with other work: what takes longer hangs.
const (
	readyTimeout = 90 * time.Second
	stopTimeout  = 90 * time.Second
	pollEvery    = 20 * time.Millisecond
)

// Options say which cluster is wanted.
type Options struct {
	// Dir is the data folder; empty makes one, which Stop removes unless something failed.
	Dir string
	// Bin has the binaries; empty: BinDir.
	Bin string
	// Args go to ashlar dev.
	Args []string
	// Allowed are the warnings that this cluster's tests provoke.
	Allowed []Allowance
}

// Cluster is an ashlar dev that runs.
type Cluster struct {
	Dir string
	bin string
	own bool
	o   Options

	mu      sync.Mutex
	dev     *exec.Cmd
	gone    chan struct{} // closed when dev has ended
	waitErr error
	said    strings.Builder
	extra   map[string]*exec.Cmd // daemons started by StartDaemon
	held    map[string]*os.File  // their sockets, by HoldSocket
	hidden  Secrets              // see Hide
}

// BinDir is where the binaries of this tree are: ASHLAR_BIN, or bin beside go.mod.
func BinDir() (string, error) {
	if dir := os.Getenv("ASHLAR_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find binaries: %w", err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			continue
		}
		bin := filepath.Join(dir, "bin")
		for _, name := range []string{"ashlar", "metad", "blockd", "snapshotd"} {
			if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
				return "", fmt.Errorf("find binaries (make build makes them): %w", err)
			}
		}
		return bin, nil
	}
	return "", errors.New("find binaries: not inside the tree")
}

// Start starts a cluster and returns when it serves. What is deleted there is gone: its trash is off.
func Start(o Options) (*Cluster, error) {
	var err error
	bin := o.Bin
	if bin == "" {
		if bin, err = BinDir(); err != nil {
			return nil, err
		}
	}
	c := &Cluster{Dir: o.Dir, bin: bin, o: o, extra: make(map[string]*exec.Cmd), held: make(map[string]*os.File)}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "ashlar-e2e-"); err != nil {
			return nil, fmt.Errorf("make data folder: %w", err)
		}
		c.own = true
	}
	if err := c.Restart(); err != nil {
		return c, err
	}
	// Tests wait for the space of what they deleted. A program from before the trash does not know the flag.
	return c, Wait("the trash to be off", readyTimeout, func() bool {
		r, err := c.CLI("cluster", "set", "--trash", "0")
		return err == nil && (r.Code == 0 || r.Code == 2)
	})
}

// Restart starts ashlar dev again after it ended.
func (c *Cluster) Restart() error {
	cmd := exec.Command(filepath.Join(c.bin, "ashlar"), append([]string{"dev", "--data", c.Dir}, c.o.Args...)...)
	// If we are killed the daemons must not stay; ashlar dev takes care of its own children.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start cluster: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start cluster: %w", err)
	}
	ready, gone := make(chan struct{}), make(chan struct{})
	c.mu.Lock()
	c.dev, c.gone, c.waitErr = cmd, gone, nil
	c.mu.Unlock()
	go c.follow(cmd, out, ready, gone)
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-ready:
		return nil
	case <-gone:
		return fmt.Errorf("cluster did not come up: %w\n%s", c.waitErr, c.Said())
	case <-timeout.C:
		_ = cmd.Process.Kill() // it failed anyway
		<-gone
		return fmt.Errorf("cluster did not come up within %s\n%s", readyTimeout, c.Said())
	}
}

// follow keeps what ashlar dev says and waits for its end.
func (c *Cluster) follow(cmd *exec.Cmd, out io.Reader, ready, gone chan struct{}) {
	lines := bufio.NewScanner(out)
	once := sync.OnceFunc(func() { close(ready) })
	for lines.Scan() {
		c.mu.Lock()
		c.said.WriteString(lines.Text() + "\n")
		c.mu.Unlock()
		if strings.HasPrefix(lines.Text(), "ready") {
			once()
		}
	}
	err := cmd.Wait()
	c.mu.Lock()
	c.waitErr = err
	c.mu.Unlock()
	close(gone)
}

// Said is all that ashlar dev has printed.
func (c *Cluster) Said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

// Signal sends a signal to ashlar dev itself, and waits for its end if that is what it means.
func (c *Cluster) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	dev, gone := c.dev, c.gone
	c.mu.Unlock()
	if err := dev.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal ashlar dev: %w", err)
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-gone:
		return nil
	case <-timeout.C:
		return fmt.Errorf("ashlar dev did not end within %s of %s", stopTimeout, sig)
	}
}

// Down ends the cluster in order and says if that was not clean.
func (c *Cluster) Down() error {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	select {
	case <-gone:
		return nil
	default:
	}
	errExtra := c.stopExtra()
	if err := c.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(err, errExtra)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waitErr != nil {
		return errors.Join(fmt.Errorf("ashlar dev did not end cleanly: %w\n%s", c.waitErr, c.said.String()), errExtra)
	}
	return errExtra
}

// Stop ends the cluster, reads the logs, looks for secrets in what it tells, and removes the folder if all was well. What the
// folder holds is kept otherwise, and the error says where.
func (c *Cluster) Stop(keep bool) error {
	err := errors.Join(c.CheckSecrets(), c.Down())
	err = errors.Join(err, c.CheckLogs())
	if c.own && err == nil && !keep {
		return os.RemoveAll(c.Dir)
	}
	if c.own {
		err = errors.Join(err, fmt.Errorf("logs and data are kept in %s", c.Dir))
	}
	return err
}

// pidOf reads the pid file of a daemon; 0 while there is none.
func (c *Cluster) pidOf(daemon string) int {
	text, err := os.ReadFile(filepath.Join(c.Dir, "run", daemon+".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// Kill sends SIGKILL to a daemon and returns when it is gone, with the moment of the signal.
func (c *Cluster) Kill(daemon string) (time.Time, error) {
	pid := c.Pid(daemon)
	if pid == 0 {
		return time.Time{}, fmt.Errorf("kill %s: no pid file in %s", daemon, c.Dir)
	}
	at := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return at, fmt.Errorf("kill %s: %w", daemon, err)
	}
	return at, c.awaitEnd(daemon, pid, 10*time.Second)
}

// awaitEnd waits until a process has ended and whoever started it knows: else it would
// count as running still, and nobody start it again.
func (c *Cluster) awaitEnd(daemon string, pid int, limit time.Duration) error {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	return Wait(daemon+" to be gone", limit, func() bool {
		if syscall.Kill(pid, 0) == nil {
			return false
		}
		select {
		case <-gone: // of ashlar dev, so nobody takes the pid file away
			return true
		default:
			return c.Pid(daemon) != pid
		}
	})
}

// Pause stops a daemon by SIGSTOP; Resume lets it go on.
func (c *Cluster) Pause(daemon string) error { return c.signalDaemon(daemon, syscall.SIGSTOP) }

// Resume lets a paused daemon go on.
func (c *Cluster) Resume(daemon string) error { return c.signalDaemon(daemon, syscall.SIGCONT) }

func (c *Cluster) signalDaemon(daemon string, sig syscall.Signal) error {
	if err := syscall.Kill(c.Pid(daemon), sig); err != nil {
		return fmt.Errorf("%s to %s: %w", sig, daemon, err)
	}
	return nil
}

// Pid is the process of a daemon, 0 while it does not run.
func (c *Cluster) Pid(daemon string) int {
	c.mu.Lock()
	cmd := c.extra[daemon]
	c.mu.Unlock()
	if cmd != nil {
		return cmd.Process.Pid
	}
	return c.pidOf(daemon)
}

// Use takes commands from other binaries from now on.
func (c *Cluster) Use(bin string) { c.bin = bin }

// UpdateDaemon ends a daemon in order and starts it from other binaries. It is for clusters
// with --no-restart.
func (c *Cluster) UpdateDaemon(daemon, bin string) error {
	pid := c.Pid(daemon)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end %s: %w", daemon, err)
	}
	if err := c.awaitEnd(daemon, pid, stopTimeout); err != nil {
		return err
	}
	return c.startDaemon(daemon, bin)
}

// HoldSocket makes the NBD socket of a dead blockd and keeps it open from now on, as a
// service manager does: every StartDaemon passes it on.
func (c *Cluster) HoldSocket(daemon string) error {
	path := filepath.Join(c.Dir, "run", daemon+".sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("hold socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("hold socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[daemon] = f
	return errors.Join(err, l.Close())
}

// LetSocketGo ends HoldSocket; the daemon that runs keeps the socket until it ends.
func (c *Cluster) LetSocketGo(daemon string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.held[daemon]
	delete(c.held, daemon)
	return f.Close()
}

// StartDaemon starts a dead daemon as ashlar dev would, at once. It is for clusters with --no-restart.
func (c *Cluster) StartDaemon(daemon string) error { return c.startDaemon(daemon, c.bin) }

func (c *Cluster) startDaemon(daemon, bin string) error {
	program := map[byte]string{'m': "metad", 'b': "blockd", 's': "snapshotd"}[daemon[0]]
	log, err := os.OpenFile(filepath.Join(c.Dir, "log", daemon+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", daemon, err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, program), "--config", filepath.Join(c.Dir, "config", daemon+".yaml"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.mu.Lock()
	if f := c.held[daemon]; f != nil {
		cmd.ExtraFiles, cmd.Env = []*os.File{f}, append(os.Environ(), "LISTEN_FDS=1")
	}
	c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", daemon, err)
	}
	c.mu.Lock()
	c.extra[daemon] = cmd
	c.mu.Unlock()
	go func() {
		_ = cmd.Wait() // killed or told to end; who killed it knows
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.extra[daemon] == cmd {
			delete(c.extra, daemon)
		}
	}()
	return nil
}

// stopExtra ends the daemons that we started ourselves, metads last.
func (c *Cluster) stopExtra() error {
	var all error
	for _, prefix := range []string{"s", "b", "m"} {
		c.mu.Lock()
		var names []string
		for name, cmd := range c.extra {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
				_ = cmd.Process.Signal(syscall.SIGTERM) // if it is gone, all the better
			}
		}
		c.mu.Unlock()
		for _, name := range names {
			all = errors.Join(all, Wait(name+" to end", stopTimeout, func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.extra[name] == nil
			}))
		}
	}
	return all
}

// Wait polls until ok, or fails after timeout and says what it waited for.
func Wait(what string, timeout time.Duration, ok func() bool) error {
	return WaitContext(context.Background(), what, timeout, ok)
}

// WaitContext is Wait that ends with ctx too.
func WaitContext(ctx context.Context, what string, timeout time.Duration, ok func() bool) error {
	end := time.NewTimer(timeout)
	defer end.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end.C:
			return fmt.Errorf("waited %s for %s", timeout, what)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// Attach gives the command line of a cluster that somebody else runs.
func Attach(dir, bin string) (*Cluster, error) {
	if _, err := os.Stat(filepath.Join(bin, "ashlar")); err != nil {
		return nil, fmt.Errorf("find binaries (make build makes them): %w", err)
	}
	return &Cluster{Dir: dir, bin: bin, extra: make(map[string]*exec.Cmd)}, nil
}
