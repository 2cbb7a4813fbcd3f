package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sortedTime is where the blockds spent their processor time while a job drove a disk, by the pieces of an I/O.
func sortedTime(ctx context.Context, dir string, debug []string, d time.Duration) (map[string]time.Duration, error) {
	var all sync.WaitGroup
	path := func(i int) string { return filepath.Join(dir, "profile"+strconv.Itoa(i)) }
	errs := make([]error, len(debug))
	for i, address := range debug {
		all.Go(func() { errs[i] = fetchProfile(ctx, address, path(i), d) })
	}
	all.Wait()
	total := make(map[string]time.Duration)
	for i := range debug {
		if errs[i] != nil {
			return nil, errs[i]
		}
		own, err := pieces(path(i))
		if err != nil {
			return nil, err
		}
		for piece, d := range own {
			total[piece] += d
		}
	}
	return total, nil
}

func fetchProfile(ctx context.Context, address, path string, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d+30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, int(d.Seconds())), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", address, res.Status)
	}
	return os.WriteFile(path, text, 0o600)
}

// pieces sorts the samples of a profile by what they are spent on.
func pieces(path string) (map[string]time.Duration, error) {
	text, err := exec.Command("go", "tool", "pprof", "-traces", path).Output()
	if err != nil {
		return nil, fmt.Errorf("go tool pprof: %w", err)
	}
	sum := map[string]time.Duration{}
	for _, trace := range strings.Split(string(text), "-----------+-------------------------------------------------------\n")[1:] {
		for line := range strings.Lines(trace) { // labels, then time and innermost function, then its callers
			head := strings.Fields(line)
			if len(head) < 2 {
				continue
			}
			if d, err := time.ParseDuration(head[0]); err == nil {
				sum[pieceOf(head[1], trace)] += d
				break
			}
		}
	}
	return sum, nil
}

// rules are tried in their order on the innermost function and on the whole stack.
var rules = []struct {
	piece string
	leaf  bool
	words []string
}{
	{"threads: wake and sleep", true, []string{"futex", "usleep", "nanosleep", "tgkill"}},
	{"threads: wait for sockets", false, []string{"linux.EpollWait", "runtime.netpollBreak"}},
	{"device: fdatasync", false, []string{"unix.Fdatasync", ".SyncData", "syscall.Fdatasync"}},
	{"device: asynchronous reads, doorbell included", false, []string{"vfs/aio."}},
	{"clock", false, []string{"unix.ClockGettime"}},
}

// syscalls are rules for what ends in the kernel.
var syscalls = []struct {
	piece string
	words []string
}{
	{"device: writes and reads", []string{"pkg/vfs.", "chunk/log.", "unix.Pwrite", "unix.Pread"}},
	{"sockets: client", []string{"pkg/nbd."}},
	{"sockets: between daemons", []string{"poll.(*FD)", "syscall.read", "syscall.write", "syscall.Write", "syscall.Read"}},
}

// work are rules for what does not, tried on the innermost function first.
var work = []struct {
	piece string
	leaf  bool
	words []string
}{
	{"AES-GCM", true, []string{"gcm", "/aes"}},
	{"copies", true, []string{"memmove", "memclr"}},
	{"CRC-32C", true, []string{"crc32"}},
	{"Reed-Solomon", true, []string{"reedsolomon"}},
	{"index (Pebble)", false, []string{"cockroachdb/pebble"}},
	{"collector, allocator", false, []string{"runtime.gcBgMarkWorker", "runtime.gcAssist", "runtime.mallocgc", "runtime.bgsweep"}},
	{"scheduler, channels, locks", false, []string{"runtime.schedule", "runtime.findRunnable", "runtime.mcall", "runtime.ready", "runtime.selectgo", "runtime.chan", "runtime.lock2", "runtime.unlock2", "runtime.sem"}},
	{"TLS but for AES", false, []string{"crypto/tls"}},
	{"frames between daemons (pkg/rpc)", false, []string{"pkg/rpc."}},
	{"NBD (pkg/nbd)", false, []string{"pkg/nbd."}},
	{"engine's core", false, []string{"volume/core."}},
}

func pieceOf(leaf, stack string) string {
	has := func(words []string, in string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(in, w) })
	}
	for _, r := range rules {
		if has(r.words, stack) && !r.leaf || has(r.words, leaf) {
			return r.piece
		}
	}
	if strings.Contains(leaf, "Syscall") {
		for _, r := range syscalls {
			if has(r.words, stack) {
				return r.piece
			}
		}
		return "other system calls"
	}
	for _, r := range work {
		if has(r.words, leaf) || !r.leaf && has(r.words, stack) {
			return r.piece
		}
	}
	return "the rest"
}
