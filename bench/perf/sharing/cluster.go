package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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

	"ashlar.dev/pkg/devcluster"
)

// cluster is an ashlar dev: three metads, three blockds with two stores each unless args say otherwise.
type cluster struct {
	bin, dir string
	cmd      *exec.Cmd
	ended    chan struct{}
}

// startCluster starts one on a folder of its own. overlay is added to the blockds' configuration.
func (b *bench) startCluster(ctx context.Context, of build, overlay string, args ...string) (*cluster, error) {
	dir, err := os.MkdirTemp(b.parent, "as")
	if err != nil {
		return nil, err
	}
	c := &cluster{bin: of.bin, dir: dir, ended: make(chan struct{})}
	file := filepath.Join(dir, "overlay.yaml")
	if err := os.WriteFile(file, []byte(overlay), 0o600); err != nil {
		return nil, err
	}
	args = append([]string{"dev", "--data", filepath.Join(dir, "c"), "--blockd-config", file}, args...)
	c.cmd = exec.Command(filepath.Join(c.bin, "ashlar"), args...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait() // how it exits is of no interest
		close(c.ended)
	}()
	return c, c.await(ctx, "the cluster", time.Minute, func() bool {
		said, _ := os.ReadFile(log.Name())
		return bytes.Contains(said, []byte("ready"))
	})
}

// end stops it; after a failure its folder stays, for the logs in it.
func (c *cluster) end(failed *error) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it fails when it is gone already
	<-c.ended
	if *failed != nil {
		say("kept: %s", c.dir)
		return
	}
	_ = os.RemoveAll(c.dir) // a leftover harms nobody
}

func (c *cluster) await(ctx context.Context, what string, limit time.Duration, done func() bool) error {
	for end := time.Now().Add(limit); !done(); time.Sleep(100 * time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not there after %s", what, limit)
		}
	}
	return nil
}

// ashlar runs a command; out, unless nil, takes what it prints as JSON.
func (c *cluster) ashlar(out any, args ...string) error {
	cmd := exec.Command(filepath.Join(c.bin, "ashlar"), append([]string{"--data", filepath.Join(c.dir, "c"), "-o", "json"}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("ashlar %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// disk makes a disk and gives its address at a host.
func (c *cluster) disk(name, size, host string, args ...string) (uri string, err error) {
	if err := c.ashlar(nil, append([]string{"disk", "create", name, "--size", size}, args...)...); err != nil {
		return "", err
	}
	var e struct {
		All []struct{ Host, Unix string }
	}
	if err := c.ashlar(&e, "disk", "nbd", name); err != nil {
		return "", err
	}
	for _, x := range e.All {
		if x.Host == host {
			return x.Unix, nil
		}
	}
	return "", fmt.Errorf("host %s serves no disk", host)
}

// pid is a daemon's.
func (c *cluster) pid(name string) int {
	text, _ := os.ReadFile(filepath.Join(c.dir, "c/run", name+".pid"))
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// cpu is what all daemons have used, in seconds.
func (c *cluster) cpu() (sum float64) {
	files, _ := filepath.Glob(filepath.Join(c.dir, "c/run/*.pid"))
	for _, f := range files {
		text, _ := os.ReadFile("/proc/" + strconv.Itoa(c.pid(strings.TrimSuffix(filepath.Base(f), ".pid"))) + "/stat")
		_, rest, _ := strings.Cut(string(text), ") ")
		if x := strings.Fields(rest); len(x) > 12 {
			user, _ := strconv.ParseFloat(x[11], 64)
			system, _ := strconv.ParseFloat(x[12], 64)
			sum += (user + system) / 100
		}
	}
	return sum
}

// metric sums a figure over the blockds that answer.
func (c *cluster) metric(name string) (sum float64) {
	f, err := devcluster.LoadFile(filepath.Join(c.dir, "c"))
	if err != nil {
		return 0
	}
	client := http.Client{Timeout: time.Second}
	for _, b := range f.Dev.Blockds {
		reply, err := client.Get("http://" + b.Debug + "/metrics")
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(reply.Body); s.Scan(); {
			if value, ok := strings.CutPrefix(s.Text(), name+" "); ok {
				n, _ := strconv.ParseFloat(value, 64)
				sum += n
			}
		}
		_ = reply.Body.Close() // it was only read
	}
	return sum
}

// machine describes where and what was measured.
func (b *bench) machine() string {
	say := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).Output()
		return strings.TrimSpace(string(out))
	}
	commit := say("git", "describe", "--always", "--dirty")
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			model = strings.TrimSpace(v)
			break
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("commit %s, %d cores of %s, kernel %s, %s, load average at the end %s", commit, runtime.NumCPU(), model, say("uname", "-r"), say("fio", "--version"),
		strings.Join(strings.Fields(string(load))[:3], " "))
}
