package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// Restarts wait restartFirst, then twice as long each time, up to restartMax; a daemon
// that stayed up for restartForget has a clean record.
const (
	restartFirst  = time.Second
	restartMax    = 30 * time.Second
	restartForget = 30 * time.Second
)

// daemon is one child that is started again when it dies.
type daemon struct {
	id      string
	binary  string
	args    []string
	dir     string
	pidFile string
	logFile string
	restart bool

	clock clock.Clock
	spawn *spawner
	tell  func(format string, args ...any)

	mu struct {
		sync.Mutex
		process  *os.Process // nil while none runs
		exited   chan struct{}
		stopping bool
		deaths   int // since the last long life
	}
}

// run keeps the daemon running until ctx ends; stop must follow to end the child.
func (d *daemon) run(ctx context.Context) error {
	for {
		started := d.clock.Now()
		err := d.once(ctx)
		if ctx.Err() != nil || d.isStopping() {
			return nil
		}
		if d.clock.Now()-started >= restartForget {
			d.setDeaths(0)
		}
		n := d.deaths() + 1
		d.setDeaths(n)
		if !d.restart {
			d.tell("%s died (%v); see %s", d.id, err, d.logFile)
			return nil
		}
		wait := backoff(n)
		d.tell("%s died (%v); starting it again in %s; see %s", d.id, err, wait, d.logFile)
		if d.clock.Sleep(ctx, wait) != nil {
			return nil
		}
	}
}

// backoff is the wait after the nth death in a row.
func backoff(n int) time.Duration {
	wait := restartFirst
	for range min(n-1, 10) {
		wait *= 2
	}
	return min(wait, restartMax)
}

// once starts the child and waits for its end; the error says how it ended, never nil
// unless it was told to stop.
func (d *daemon) once(ctx context.Context) error {
	log, err := openLog(d.logFile)
	if err != nil {
		return err
	}
	cmd := exec.Command(d.binary, d.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, log, log
	if err := d.begin(ctx, cmd); err != nil {
		return errors.Join(err, log.Close())
	}
	pidErr := config.WriteFile(d.pidFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600)
	err = cmd.Wait()
	d.end()
	// The child has its own copy of the log's descriptor; closing ours loses nothing.
	removeErr := os.Remove(d.pidFile)
	if errors.Is(removeErr, os.ErrNotExist) {
		removeErr = nil
	}
	if err == nil {
		err = errors.New("it ended by itself with exit code 0")
	}
	return errors.Join(err, pidErr, removeErr, log.Close())
}

// begin starts the child unless stop came first.
func (d *daemon) begin(ctx context.Context, cmd *exec.Cmd) error {
	d.mu.Lock()
	defer d.mu.Unlock() // held over the start, so that stop either sees the child or prevents it
	if d.mu.stopping {
		return context.Canceled
	}
	if err := d.spawn.start(ctx, cmd); err != nil {
		return fmt.Errorf("start %s: %w", d.id, err)
	}
	d.mu.process, d.mu.exited = cmd.Process, make(chan struct{})
	return nil
}

func (d *daemon) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.mu.exited)
	d.mu.process = nil
}

func (d *daemon) isStopping() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.stopping
}

func (d *daemon) deaths() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.deaths
}

func (d *daemon) setDeaths(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.deaths = n
}

// signal sends sig to the child, if one runs, and lets it not be started again: what
// follows is the stop.
func (d *daemon) signal(sig os.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.stopping = true
	if d.mu.process != nil {
		_ = d.mu.process.Signal(sig) // it fails only when the child is gone already
	}
}

// stop sends SIGTERM, waits, and after grace kills the child's whole process group.
// Once it was called the child is not started again.
func (d *daemon) stop(grace time.Duration) {
	d.mu.Lock()
	d.mu.stopping = true
	p, exited := d.mu.process, d.mu.exited
	d.mu.Unlock()
	if p == nil {
		return
	}
	// The signals fail only when the child is gone already, which exited tells.
	_ = p.Signal(syscall.SIGTERM)
	// A stopped (SIGSTOP) child would not see it.
	_ = p.Signal(syscall.SIGCONT)
	t := d.clock.NewTimer(grace)
	defer t.Stop()
	select {
	case <-exited:
		return
	case <-t.C():
	}
	d.tell("%s did not end within %s; killing it", d.id, grace)
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
	<-exited
}

// Logs are cut at logBytesMax; one older part is kept.
const logBytesMax = 16 << 20

// openLog opens for appending; a long log becomes NAME.log.1 first.
func openLog(path string) (*os.File, error) {
	if err := rotate(path, os.Rename); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// rotate moves a log that is too long to NAME.log.1 by the means given.
func rotate(path string, move func(from, to string) error) error {
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && fi.Size() < logBytesMax {
		return nil
	}
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if err := move(path, path+".1"); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return nil
}

// moveOpen is a move for a log that a child has open for appending: copy, then truncate.
// The child writes on at the new end; lines written between the two are lost, which is
// the price of the child not depending on us for its log.
func moveOpen(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(err, out.Close())
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Truncate(from, 0)
}

// tail is the end of a log, for the message about a daemon that does not come up.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const window = 8 << 10
	if fi, err := f.Stat(); err == nil && fi.Size() > window {
		if _, err := f.Seek(-window, io.SeekEnd); err != nil {
			return ""
		}
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// lockFolder makes sure that only one of us runs on a folder; unlock by closing.
func lockFolder(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		who, _ := io.ReadAll(io.LimitReader(f, 32)) // only to say who it is
		f.Close()
		return nil, fmt.Errorf("another ashlar dev (pid %s) runs on this folder; stop it or use another: %w", strings.TrimSpace(string(who)), errs.ErrConflict)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(fmt.Errorf("write lock: %w", err), f.Close())
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("write lock: %w", err), f.Close())
	}
	return f, nil
}
