package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is the unit of /proc/PID/stat, the same on every Linux Go runs on.
const ticksPerSecond = 100

// snapshot is the counters around a job.
type snapshot struct {
	at      time.Time
	cpu     float64 // seconds of all server processes, with children that ended
	written uint64  // bytes they sent to storage
	busy    float64 // seconds of all processors
	flushes uint64  // of the device
	metrics map[string]float64
}

func (b *bench) snap(t *target) snapshot {
	s := snapshot{at: time.Now(), metrics: t.metrics()}
	for _, pid := range t.pids() {
		s.cpu += cpuOf(pid)
		s.written += writtenBy(pid)
	}
	s.busy = busy()
	s.flushes = b.flushes()
	return s
}

func cpuOf(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may have spaces; after it the first field is the state.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var sum float64
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
		n, _ := strconv.ParseFloat(f[i], 64)
		sum += n
	}
	return sum / ticksPerSecond
}

func writtenBy(pid int) uint64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

func busy() float64 {
	text, _ := os.ReadFile("/proc/stat")
	f := strings.Fields(strings.SplitN(string(text), "\n", 2)[0])
	var sum float64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, _ := strconv.ParseFloat(f[i], 64)
		sum += n
	}
	return sum / ticksPerSecond
}

func loadAverage() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	n, _ := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	return n
}

// diskOf is the counter file of the block device under dir; empty if it has none.
func diskOf(dir string) string {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) != nil {
		return ""
	}
	major, minor := st.Dev>>8&0xfff, st.Dev&0xff|st.Dev>>12&0xfff00
	path, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(path, "partition")); err == nil {
		path = filepath.Dir(path) // flushes are counted on the whole device
	}
	return filepath.Join(path, "stat")
}

func (b *bench) flushes() uint64 {
	text, err := os.ReadFile(b.disk)
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text))
	if len(f) < 16 {
		return 0
	}
	n, _ := strconv.ParseUint(f[15], 10, 64)
	return n
}

// scrape sums each metric over the addresses and their labels.
func scrape(addresses []string) map[string]float64 {
	sums := make(map[string]float64)
	client := http.Client{Timeout: 5 * time.Second}
	for _, a := range addresses {
		reply, err := client.Get("http://" + a + "/metrics")
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(reply.Body); s.Scan(); {
			line := s.Text()
			name, value := line, ""
			if i := strings.LastIndexByte(line, ' '); i > 0 {
				name, value = line[:i], line[i+1:]
			}
			name, _, _ = strings.Cut(name, "{")
			if n, err := strconv.ParseFloat(value, 64); err == nil && strings.HasPrefix(name, "blockd_") {
				sums[name] += n
			}
		}
		reply.Body.Close()
	}
	return sums
}

// settle waits until what earlier jobs left is done: dirty pages are written, and, before
// a read, buffered writes are packed, so that reads are not served from write buffers.
func (b *bench) settle(ctx context.Context, t *target, j job) {
	for _, f := range b.files {
		_ = f.Sync() // what fails here fails in the server too
	}
	const step = 250 * time.Millisecond
	end := time.Now().Add(b.plan.Settle)
	if j.reads() {
		end = end.Add(2 * b.plan.Settle)
	}
	last := -1.0
	for time.Now().Before(end) && ctx.Err() == nil {
		var cpu float64
		for _, pid := range t.pids() {
			cpu += cpuOf(pid)
		}
		packed := !j.reads() || t.metrics()["blockd_volume_unpacked_bytes"] == 0
		if last >= 0 && cpu-last < 0.05 && packed {
			return
		}
		last = cpu
		time.Sleep(step)
	}
}

// machineFacts tell what was measured where.
type machineFacts struct {
	CPU, Kernel, Memory, Disk, Go, Fio, Commit string
	Cores                                      int
	Dirty                                      bool
}

func machine(root, dir string) machineFacts {
	m := machineFacts{Cores: runtime.NumCPU(), Go: runtime.Version(), Kernel: output(root, "uname", "-r"), Fio: output(root, "fio", "--version"),
		Commit: output(root, "git", "rev-parse", "--short=12", "HEAD"), Dirty: output(root, "git", "status", "--porcelain", "-uno", "--", "*.go", "go.mod") != ""}
	m.CPU = field("/proc/cpuinfo", "model name")
	if kb, err := strconv.Atoi(strings.Fields(field("/proc/meminfo", "MemTotal") + " 0")[0]); err == nil {
		m.Memory = fmt.Sprintf("%d GiB", (kb+1<<19)>>20)
	}
	m.Disk = strings.Join(strings.Fields(lastLine([]byte(output(root, "df", "--output=source,fstype", dir)))), ", ")
	return m
}

func output(dir, program string, args ...string) string {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	text, _ := cmd.Output() // a fact that cannot be had is shown as empty
	return strings.TrimSpace(string(text))
}

func field(path, key string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
