package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// target is a disk that fio can reach.
type target struct {
	name   string
	engine []string // fio's options
	// pids are its server processes; metrics its counters, nil if it has none.
	pids    func() []int
	metrics func() map[string]float64
	stop    func()
}

func noMetrics() map[string]float64 { return nil }

// rawFile is a file without a server.
func (b *bench) rawFile(name string) *target {
	file := filepath.Join(b.dir, strings.ReplaceAll(name, " ", "-"))
	engine := []string{"--ioengine=io_uring", "--direct=1", "--filename=" + file}
	if name == "append" { // each of several processes has its own
		engine = []string{"--directory=" + b.dir}
	}
	return &target{name: name, engine: engine, pids: func() []int { return nil }, metrics: noMetrics, stop: func() {}}
}

// ours is this tree's NBD server before a device that stores nothing or memory.
func (b *bench) ours(device string) func(context.Context) (*target, error) {
	return func(ctx context.Context) (*target, error) {
		server := filepath.Join(b.dir, "nbdserve")
		if _, err := os.Stat(server); err != nil {
			build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", server, "./bench/perf/nbdserve")
			build.Dir, build.Env = b.root, append(os.Environ(), "CGO_ENABLED=0")
			if said, err := build.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("build nbdserve: %w: %s", err, said)
			}
		}
		return b.serve(ctx, "ours "+device, func(socket string) []string {
			return []string{server, "--unix", socket, "--device", device, "--size", fmt.Sprintf("%dMiB", b.plan.DiskMiB)}
		})
	}
}

func (b *bench) nbdkit(name string, plugin ...string) func(context.Context) (*target, error) {
	return func(ctx context.Context) (*target, error) {
		return b.serve(ctx, name, func(socket string) []string {
			return append([]string{"nbdkit", "-f", "-U", socket, "-t", "16"}, plugin...)
		})
	}
}

func (b *bench) nbdkitMemory(name string) func(context.Context) (*target, error) {
	return b.nbdkit(name, "memory", fmt.Sprintf("%dM", b.plan.DiskMiB))
}

func (b *bench) nbdkitFile(ctx context.Context) (*target, error) {
	file, err := b.file("nbdkit-file.img")
	if err != nil {
		return nil, err
	}
	return b.nbdkit("nbdkit file", "file", file)(ctx)
}

func (b *bench) qemuFile(ctx context.Context) (*target, error) {
	file, err := b.file("qemu-nbd.img")
	if err != nil {
		return nil, err
	}
	return b.serve(ctx, "qemu-nbd file", func(socket string) []string {
		return []string{"qemu-nbd", "-k", socket, "-x", "", "-t", "-e", "16", "-f", "raw", "--cache=none", "--aio=io_uring", file}
	})
}

// file makes an empty disk, whose dirty pages are written back before each job.
func (b *bench) file(name string) (string, error) {
	path := filepath.Join(b.dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	b.files = append(b.files, f)
	return path, f.Truncate(int64(b.plan.DiskMiB) << 20)
}

// serve starts a server on a unix socket and waits until it is there.
func (b *bench) serve(ctx context.Context, name string, command func(socket string) []string) (*target, error) {
	socket := filepath.Join(b.dir, strings.ReplaceAll(name, " ", "-")+".sock")
	_ = os.Remove(socket) // of one that ended before: not all take theirs away
	args := command(socket)
	cmd := exec.Command(args[0], args[1:]...)
	log, err := os.Create(socket + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stop, err := start(cmd)
	if err != nil {
		return nil, err
	}
	b.running = append(b.running, stop)
	ready := func() bool { _, err := os.Stat(socket); return err == nil }
	if err := await(ctx, 15*time.Second, ready); err != nil {
		said, _ := os.ReadFile(socket + ".log")
		return nil, fmt.Errorf("%s did not start: %w: %s", name, err, lastLine(said))
	}
	pid := cmd.Process.Pid
	return &target{name: name, engine: []string{"--ioengine=nbd", "--uri=nbd+unix:///?socket=" + socket},
		pids: func() []int { return []int{pid} }, metrics: noMetrics, stop: stop}, nil
}

// start gives a function that ends the process; calling it again does nothing.
func start(cmd *exec.Cmd) (stop func(), err error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how a stopped server exits is of no interest
		close(ended)
	}()
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it fails only when the process is gone
		select {
		case <-ended:
		case <-time.After(90 * time.Second):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
	}, nil
}

func await(ctx context.Context, limit time.Duration, ready func() bool) error {
	end := time.Now().Add(limit)
	for !ready() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("not ready after %s", limit)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}
