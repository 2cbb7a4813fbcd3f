//go:build upgrade

package upgrade

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// earlier builds the commit that the file FROM names (UPGRADE_FROM another one), apart from this tree.
func earlier(t *testing.T) (bin, commit string) {
	t.Helper()
	text, err := os.ReadFile("FROM")
	must(t, err)
	commit = strings.TrimSpace(string(text))
	if other := os.Getenv("UPGRADE_FROM"); other != "" {
		commit = other
	}
	if err := exec.Command("git", "cat-file", "-e", commit+"^{commit}").Run(); err != nil {
		t.Skipf("commit %s is not in this clone (a shallow one?): git fetch --unshallow, or set UPGRADE_FROM", commit)
	}
	tree := t.TempDir()
	out, err := exec.Command("sh", "-c", `git -C "$(git rev-parse --show-toplevel)" archive "$0" | tar x -C "$1"`, commit, tree).CombinedOutput()
	if err != nil {
		t.Fatalf("unpack %s: %v\n%s", commit, err, out)
	}
	bin = filepath.Join(tree, "bin")
	must(t, os.Mkdir(bin, 0o755))
	build := exec.Command("go", "build", "-o", bin+"/", "./pkg/cli/ashlar", "./metad", "./blockd")
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", commit, err, out)
	}
	return bin, commit
}

// patience is for what must come, on a slow machine with other work.
const patience = 60 * time.Second

// A cluster of the earlier version becomes one of this version, daemon by daemon, while a
// client writes and verifies on a host that is updated last: metads first, then storage
// hosts. In between both versions serve together. Without this every update would be an outage.
func TestTwoVersionsWorkTogether(t *testing.T) {
	now, err := cluster.BinDir()
	must(t, err)
	then, commit := earlier(t)
	t.Logf("from %s to this tree", commit)
	c, err := cluster.Start(cluster.Options{Bin: then, Args: []string{"--no-restart"}})
	must(t, err)
	t.Cleanup(func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	})
	const size = 256 << 20
	_, err = c.Create("d", fmt.Sprint(size))
	must(t, err)
	uri := on(t, c, "b3")
	fill(t, uri, "before")
	client := busy(t, uri, size)
	for _, daemon := range []string{"m1", "m2", "m3", "b1", "b2"} {
		must(t, c.UpdateDaemon(daemon, now))
		must(t, c.WaitUp(patience))
		t.Logf("%s is updated", daemon)
	}
	client.end(t)
	must(t, c.UpdateDaemon("b3", now))
	must(t, c.WaitUp(patience))
	must(t, check(on(t, c, "b1"), "before")) // read by another version than wrote it
	must(t, check(on(t, c, "b3"), "before"))
	c.Use(now)
	// What is new is used once all have it.
	must(t, cluster.Wait("events", patience, func() bool {
		r, err := c.CLI("events", "-n", "5")
		return err == nil && r.Code == 0 && strings.Contains(r.Stdout, "up")
	}))
	fill(t, on(t, c, "b2"), "after")
	must(t, check(on(t, c, "b1"), "after"))
}

// on is the disk's address on a host.
func on(t *testing.T, c *cluster.Cluster, host string) string {
	t.Helper()
	e, err := c.NBD("d")
	must(t, err)
	for _, x := range e.All {
		if x.Host == host {
			return x.Unix
		}
	}
	t.Fatalf("%s does not serve the disk: %+v", host, e)
	return ""
}

// fill writes a pattern of its own onto the disk's last eighth, where the busy client does not write.
func fill(t *testing.T, uri, seed string) {
	t.Helper()
	if out, err := fio(uri, seed, "--do_verify=0").CombinedOutput(); err != nil {
		t.Fatalf("write %s: %v\n%s", seed, err, out)
	}
}

func check(uri, seed string) error {
	out, err := fio(uri, seed, "--verify_only").CombinedOutput()
	if err != nil {
		return fmt.Errorf("verify %s: %w\n%s", seed, err, out)
	}
	return nil
}

func fio(uri, seed string, more ...string) *exec.Cmd {
	return exec.Command("fio", append([]string{"--name=" + seed, "--ioengine=nbd", "--uri=" + uri, "--rw=write", "--bs=64k", "--iodepth=8", "--offset=224M", "--size=32M",
		"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"}, more...)...)
}

// client is a fio that writes and verifies until it is ended.
type client struct {
	cmd   *exec.Cmd
	said  strings.Builder
	stop  string
	ended chan error
}

func busy(t *testing.T, uri string, size int) *client {
	t.Helper()
	x := &client{stop: filepath.Join(t.TempDir(), "stop"), ended: make(chan error, 1)}
	x.cmd = exec.Command("fio", "--name=busy", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=16k", "--iodepth=8", fmt.Sprint("--size=", size/8*7),
		"--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", "--verify_state_save=0", "--time_based", "--runtime=900", "--trigger-file="+x.stop, "--trigger=true")
	x.cmd.Stdout, x.cmd.Stderr = &x.said, &x.said
	must(t, x.cmd.Start())
	go func() { x.ended <- x.cmd.Wait() }()
	return x
}

// end ends the client and fails the test if it saw an error, or ended before.
func (x *client) end(t *testing.T) {
	t.Helper()
	select {
	case err := <-x.ended:
		t.Fatalf("the client ended while daemons were updated: %v\n%s", err, x.said.String())
	default:
	}
	must(t, os.WriteFile(x.stop, nil, 0o600))
	err := <-x.ended
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if strings.Contains(x.said.String(), "verify:") || strings.Contains(x.said.String(), "error=") {
		t.Errorf("the client saw errors:\n%s", x.said.String())
	}
}
