package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ashlar.dev/pkg/devcluster"
)

// cluster is an ashlar dev with one disk: three metads, three blockds with two stores
// each, TLS between them, profile 4+2.
type cluster struct {
	b       *bench
	dir     string
	target  *target
	stopDev func()
	debug   []string // blockds' debug addresses
}

// endpoint is what ashlar disk nbd prints.
type endpoint struct {
	Unix string `json:"unix"`
	TCP  string `json:"tcp"`
}

const diskName = "bench"

func (b *bench) startCluster(ctx context.Context) (*cluster, error) {
	c := &cluster{b: b, dir: filepath.Join(b.dir, "c")}
	c.target = &target{name: "ashlar 4+2", pids: c.pids, metrics: func() map[string]float64 { return scrape(c.debug) }}
	c.target.stop = c.stop
	b.running = append(b.running, c.stop)
	if err := c.writeOverlay(true); err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	if _, err := c.ashlar(ctx, "disk", "create", diskName, "--size", fmt.Sprintf("%dMiB", b.plan.DiskMiB)); err != nil {
		return nil, err
	}
	return c, c.attach(ctx)
}

func (c *cluster) overlay() string { return filepath.Join(c.b.dir, "blockd.yaml") }

// writeOverlay configures the blockds. The cache is held under a twentieth of the disk. Idle buffers are
// packed after 2 s instead of minutes, so that reads between jobs come from the stores.
func (c *cluster) writeOverlay(tls bool) error {
	text := fmt.Sprintf("memory:\n  block_cache: %dMiB\n  write_buffer: %dMiB\nvolume:\n  seal_idle: 2s\n", c.b.plan.CacheMiB, c.b.plan.BufferMiB)
	if c.b.plan.MapMiB > 0 {
		text = strings.Replace(text, "memory:\n", fmt.Sprintf("memory:\n  map_cache: %dMiB\n", c.b.plan.MapMiB), 1)
	}
	if c.b.plan.PackDelay > 0 {
		text += fmt.Sprintf("  pack_delay: %s\n", c.b.plan.PackDelay)
	}
	if !tls {
		text += "data_tls: \"off\"\n"
	}
	return os.WriteFile(c.overlay(), []byte(text), 0o600)
}

// start starts the daemons on the folder, and finds the disk if there is one already.
func (c *cluster) start(ctx context.Context, flags ...string) error {
	args := append([]string{"dev", "--data", c.dir, "--blockd-config", c.overlay()}, flags...)
	cmd := exec.Command(filepath.Join(c.b.root, "bin/ashlar"), args...)
	out := filepath.Join(c.b.dir, "dev.log")
	log, err := os.Create(out)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if c.stopDev, err = start(cmd); err != nil {
		return err
	}
	ready := func() bool {
		text, _ := os.ReadFile(out)
		return bytes.HasPrefix(text, []byte("ready")) || bytes.Contains(text, []byte("\nready"))
	}
	if err := await(ctx, 90*time.Second, ready); err != nil {
		said, _ := os.ReadFile(out)
		return fmt.Errorf("start cluster: %w: %s", err, lastLine(said))
	}
	f, err := devcluster.LoadFile(c.dir)
	if err != nil {
		return err
	}
	c.debug = nil
	for _, b := range f.Dev.Blockds {
		c.debug = append(c.debug, b.Debug)
	}
	if c.target.engine == nil {
		return nil // no disk yet
	}
	return c.attach(ctx)
}

func (c *cluster) stop() {
	if c.stopDev != nil {
		c.stopDev()
	}
}

func (c *cluster) ashlar(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.b.root, "bin/ashlar"), append([]string{"--data", c.dir, "-o", "json"}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("ashlar %s: %w: %s", strings.Join(args, " "), err, lastLine(said.Bytes()))
	}
	return text, nil
}

// attach points the target at the disk; after a start another blockd may own it.
func (c *cluster) attach(ctx context.Context) error {
	e, err := c.find(ctx, diskName)
	c.target.engine = []string{"--ioengine=nbd", "--uri=" + e.Unix}
	return err
}

// find asks where a disk is served.
func (c *cluster) find(ctx context.Context, disk string) (e endpoint, err error) {
	text, err := c.ashlar(ctx, "disk", "nbd", disk)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fmt.Errorf("read endpoints: %w", err)
	}
	return e, nil
}

// pids are those of all daemons, metads too.
func (c *cluster) pids() (pids []int) {
	files, _ := filepath.Glob(filepath.Join(c.dir, "run/*.pid"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}
