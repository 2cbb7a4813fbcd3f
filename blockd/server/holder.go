package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// life is this process's hold on its data folder. The kernel's lock is held until the
// process ends, however it ends, so having it proves that every earlier life of
// this host is dead; the number in the file was the latest one's.
type life struct {
	lock   *os.File
	holder id.Holder
}

// begin takes the lock and counts this start, durably, before anybody hears the number. A
// folder without a count begins with the present second: a machine that has lost its disks, or
// was replaced under its old name, has a higher number than all its earlier lives, unless they
// were started more than once a second.
func begin(dir string, host id.Host, now time.Time) (*life, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock %s: another blockd runs on this folder: %w", dir, errors.Join(errs.ErrExists, err))
	}
	// Who adds a store finds the process that it is for by this; the lock tells whether it lives.
	if err := sayPid(lock); err != nil {
		_ = lock.Close()
		return nil, err
	}
	path := filepath.Join(dir, "STARTS")
	n := uint64(max(now.Unix(), 0))
	switch b, err := os.ReadFile(path); {
	case err == nil:
		if n, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
			_ = lock.Close()
			return nil, fmt.Errorf("read %s: %w", path, errors.Join(errs.ErrCorrupt, err))
		}
	case !errors.Is(err, os.ErrNotExist):
		_ = lock.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if err := config.WriteFile(path, []byte(strconv.FormatUint(n+1, 10)+"\n"), 0o600); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("count this start: %w", err)
	}
	return &life{lock: lock, holder: id.Holder{Host: host, Number: n + 1}}, nil
}

// sayPid writes this process's number into its lock file.
func sayPid(lock *os.File) error {
	err := lock.Truncate(0)
	if err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	return nil
}

// end gives the lock back.
func (l *life) end() error { return l.lock.Close() }
