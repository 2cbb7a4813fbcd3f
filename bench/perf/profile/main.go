// Profile tells where the blockds of a cluster of `ashlar dev` spend their processor time, by the pieces of an I/O
// (bench/perf/PROFILE.md): run it while something drives a disk.
//
//	go run ./bench/perf/profile DIR [SECONDS]
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ashlar.dev/pkg/devcluster"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	seconds := 5
	if len(args) == 2 {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 1 {
			return fmt.Errorf("%q are no seconds", args[1])
		}
		seconds = n
	}
	if len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("want the folder of a running `ashlar dev`, and seconds")
	}
	f, err := devcluster.LoadFile(args[0])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "profile")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var all sync.WaitGroup
	errs := make([]error, len(f.Dev.Blockds))
	for i, b := range f.Dev.Blockds {
		all.Go(func() { errs[i] = fetch(b.Debug, filepath.Join(dir, b.ID), seconds) })
	}
	all.Wait()
	total, sum := map[string]time.Duration{}, time.Duration(0)
	for i, b := range f.Dev.Blockds {
		if errs[i] != nil {
			return errs[i]
		}
		own, err := pieces(filepath.Join(dir, b.ID))
		if err != nil {
			return err
		}
		for piece, d := range own {
			total[piece] += d
			sum += d
		}
	}
	fmt.Printf("%.2f cores\n", sum.Seconds()/float64(seconds))
	order := slices.SortedFunc(maps.Keys(total), func(a, b string) int { return cmp.Compare(total[b], total[a]) })
	for _, piece := range order {
		fmt.Printf("%6.1f %%  %s\n", 100*float64(total[piece])/float64(sum), piece)
	}
	return nil
}

func fetch(address, path string, seconds int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds+30)*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", address, seconds), nil)
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
	{"device: reads by io_uring, doorbell included", false, []string{"io_uring", "/uring."}},
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
