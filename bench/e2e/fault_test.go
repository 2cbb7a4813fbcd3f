//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/bench/chaos/history"
	"ashlar.dev/bench/chaos/load"
	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// mortal is the cluster whose daemons die. Nothing restarts but by the test's will.
func mortal(t *testing.T) *cluster.Cluster {
	t.Helper()
	c := faulty.get(t, cluster.Options{Args: []string{"--no-restart", "--store-size", "6GiB", "--blockd-config", "testdata/small-buffers.yaml"}, Allowed: cluster.Faults})
	if err := c.WaitUp(patience); err != nil {
		t.Fatalf("before the test: %v", err)
	}
	return c
}

// probed are the cells of a prober: 256 blocks in the disk's nth MiB. fio writes beyond them.
func probed(n int64) []history.Region {
	return []history.Region{{Offset: n << 20, Size: 4096, Count: 256}}
}

const beyondProbes = "--offset=16M"

// prober is a client that writes and reads as fast as answers come and connects again, to
// any endpoint, when its connection breaks.
type prober struct {
	t    *testing.T
	disk *load.Disk
	stop context.CancelFunc
	done sync.WaitGroup
}

func probe(t *testing.T, name string, uris ...string) *prober { return probeAt(t, name, 0, uris...) }

func probeAt(t *testing.T, name string, mebibyte int64, uris ...string) *prober {
	t.Helper()
	regions := probed(mebibyte)
	p := &prober{t: t, disk: load.NewDisk(name, uris, regions...)}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	w := &load.Worker{Number: 1, Disk: p.disk, Attachment: fmt.Sprintf("prober-%d", mebibyte), Next: load.Prober(regions, 0), Rand: rand.New(rand.NewPCG(1, 1)), Lanes: 1,
		Patience: 30 * time.Second, DialTimeout: 3 * time.Second, Pace: time.Millisecond}
	p.done.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { stop(); p.done.Wait() })
	p.await("its first answers", 50)
	return p
}

// await waits for so many answers more.
func (p *prober) await(what string, n int) {
	p.t.Helper()
	goal := p.disk.Completed() + n
	if err := cluster.Wait(what, patience, func() bool { return p.disk.Completed() >= goal }); err != nil {
		p.t.Fatalf("disk %s: %v", p.disk.Name, err)
	}
}

// next is how long after since the first request is answered that is made from now on.
func (p *prober) next(since time.Time) time.Duration {
	p.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case at := <-p.disk.First():
		return at.Sub(since)
	case <-timeout.C:
		p.t.Fatalf("disk %s answers nobody", p.disk.Name)
		return 0
	}
}

// judge ends the client and checks that it saw one disk, to the last block.
func (p *prober) judge(uri string) {
	p.t.Helper()
	p.stop()
	p.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p.disk.URIs = []string{uri}
	must(p.t, load.Retry(ctx, func(ctx context.Context) error { return p.disk.ReadAll(ctx, 2, 0) }))
	v := history.Check(p.disk.Log.Ops(), time.Minute)
	p.t.Logf("%s; %s", v, p.disk.Summary())
	if b := p.disk.Log.Breaches(); len(b) > 0 || !v.OK() {
		p.t.Errorf("the disk lied: %v", b)
		for _, x := range v.Broken {
			p.t.Error(x.Describe(30))
		}
	}
	if n := p.disk.Refusals(); len(n) > 0 {
		p.t.Errorf("requests were answered with errors: %v", n)
	}
}

// mark measures against a mark of the issue. It is only told where the machine is not ours alone, or another lane of tests runs beside.
func mark(t *testing.T, what string, got, most time.Duration) {
	t.Helper()
	t.Logf("%s: %s (mark %s)", what, got.Round(time.Millisecond), most)
	if got > most && os.Getenv("CI") == "" && os.Getenv("E2E_BESIDE") == "" {
		t.Errorf("%s took %s, the mark is %s", what, got, most)
	}
}

// writing is a fio that writes and then verifies.
type writing struct {
	t    *testing.T
	out  strings.Builder
	done chan error
}

// write starts fio, which writes for about so many seconds.
func write(t *testing.T, uri string, seconds int, more ...string) *writing {
	t.Helper()
	needTools(t, "fio")
	w := &writing{t: t, done: make(chan error, 1)}
	const rate, mean = 400, 18 << 10 // writes a second and their bytes, so that it is still writing when the fault comes
	args := append([]string{"--name=" + t.Name(), "--ioengine=nbd", "--uri=" + uri, beyondProbes, "--size=128M", "--rw=randwrite", "--bsrange=4k-32k", "--blockalign=4k", "--iodepth=32",
		"--number_ios=" + fmt.Sprint(rate*seconds), "--rate=," + fmt.Sprint(rate*mean), "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0",
		"--serialize_overlap=1", "--randseed=11", "--fsync=100"}, more...)
	cmd := exec.Command("fio", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), &w.out, &w.out
	must(t, cmd.Start())
	over := make(chan struct{})
	go func() { w.done <- cmd.Wait(); close(over) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-over })
	return w
}

// finish waits until fio has written and verified everything.
func (w *writing) finish() {
	w.t.Helper()
	timeout := time.NewTimer(3 * time.Minute)
	defer timeout.Stop()
	select {
	case err := <-w.done:
		if err != nil {
			w.t.Fatalf("fio: %v\n%s", err, w.out.String())
		}
	case <-timeout.C:
		w.t.Fatalf("fio does not end\n%s", w.out.String())
	}
}

// owned makes a disk with an owner.
func owned(t *testing.T, c *cluster.Cluster, name string) (cluster.Endpoints, string) {
	t.Helper()
	disk(t, c, name, "256MiB")
	n, err := nbd.Dial(t.Context(), endpoints(t, c, name).Unix, nbd.ClientOptions{})
	must(t, err)
	_, err = n.ReadAt(make([]byte, 4096), 0)
	must(t, err)
	must(t, n.Close())
	e := endpoints(t, c, name)
	if !e.All[0].Owner {
		t.Fatalf("no owner after an open: %+v", e)
	}
	return e, e.All[0].Host
}

// kill ends a daemon and sees to it that it is there again after the test.
func kill(t *testing.T, c *cluster.Cluster, daemon string) time.Time {
	t.Helper()
	at, err := c.Kill(daemon)
	must(t, err)
	t.Cleanup(func() { revive(t, c, daemon) })
	return at
}

// revive starts a daemon if it does not run.
func revive(t *testing.T, c *cluster.Cluster, daemon string) {
	t.Helper()
	if c.Pid(daemon) == 0 {
		must(t, c.StartDaemon(daemon))
	}
}

// Without this the death of a storage daemon would stop writers, stop packing when the
// buffers are full, or cost bytes.
func TestIOGoesOnWhenAStorageDaemonDies(t *testing.T) {
	c := mortal(t)
	e, owner := owned(t, c, "store-dies")
	victim := e.All[1].Host
	p := probe(t, "store-dies", e.Unix)
	w := write(t, e.Unix, 6)
	p.await("I/O before the fault", 200)
	p.disk.TakeGap()
	kill(t, c, victim)
	p.await("I/O after the fault", 200)
	w.finish() // writes go on, and what was written is read back, with the daemon gone
	t.Logf("%s died, %s owned the disk: longest silence %s", victim, owner, p.disk.TakeGap().Round(time.Millisecond))
	// More than the buffers hold: packing must go on with a daemon gone.
	run(t, "fio", "--name=fill", "--ioengine=nbd", "--uri="+e.Unix, beyondProbes, "--size=200M", "--io_size=300M", "--rw=randwrite", "--bs=64k", "--iodepth=8",
		"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--serialize_overlap=1")
	s, err := c.Status()
	must(t, err)
	if s.Health == "OK" {
		t.Error("a dead storage daemon and the health is OK")
	}
	revive(t, c, victim)
	must(t, c.WaitUp(patience))
	p.judge(e.All[2].Unix)
}

// storageDaemon is QEMU in front of an endpoint: it connects again when its server comes back.
func storageDaemon(t *testing.T, uri string) string {
	t.Helper()
	needTools(t, "qemu-storage-daemon")
	f, err := load.NewFront(t.Context(), uri, time.Minute)
	must(t, err)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("qemu-storage-daemon: %s", f.Said())
		}
	})
	return f.URI
}

// farAway is storageDaemon for a guest whose machine has no blockd: over TCP with TLS, and a certificate for this disk.
func farAway(t *testing.T, c *cluster.Cluster, name, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	must(t, err)
	f, err := load.NewTLSFront(t.Context(), u.Host, strings.TrimPrefix(u.Path, "/"), clientCertificate(t, c, name), time.Minute)
	must(t, err)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("qemu-storage-daemon over TLS: %s", f.Said())
		}
	})
	return f.URI
}

// Without this a restarted exporter would cost its clients more than a second, or bytes. The
// socket is held by who starts it, as systemd does: QEMU, which waits for one, two and four
// seconds between its tries to connect, gets through with the first.
func TestExporterRestartedInPlace(t *testing.T) {
	c := mortal(t)
	e, owner := owned(t, c, "in-place")
	kill(t, c, owner)
	must(t, c.HoldSocket(owner))
	t.Cleanup(func() { must(t, c.LetSocketGo(owner)) })
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	front := storageDaemon(t, e.Unix)
	direct := probe(t, "in-place", e.Unix) // connects again every 10 ms
	w := write(t, front, 5)
	direct.await("I/O before the fault", 200)
	killed := kill(t, c, owner)
	revive(t, c, owner)
	mark(t, "from the kill to the next I/O of a client that comes back at once", direct.next(killed), time.Second)
	n, err := nbd.Dial(t.Context(), front, nbd.ClientOptions{})
	must(t, err)
	_, err = n.ReadAt(make([]byte, 4096), 0)
	must(t, err)
	mark(t, "from the kill to the next I/O through qemu-storage-daemon", time.Since(killed), time.Second)
	must(t, n.Close())
	w.finish()
	must(t, c.WaitUp(patience))
	direct.judge(e.Unix)
}

// Without this a lost host would take its disks with it, or give them back late.
func TestAnotherBlockdTakesOver(t *testing.T) {
	c := mortal(t)
	e, owner := owned(t, c, "takeover")
	p := probe(t, "takeover", e.UnixURIs()...)
	p.await("I/O before the fault", 200)
	killed := kill(t, c, owner)
	mark(t, "from the kill to the next I/O through another blockd", p.next(killed), 8*time.Second)
	p.await("I/O at the new owner", 200)
	if d, err := c.Disk("takeover"); err != nil || d.Owner == owner || d.Owner == "" {
		t.Errorf("the owner is %q, was %q: %v", d.Owner, owner, err)
	}
	rest := endpoints(t, c, "takeover")
	w := write(t, rest.Unix, 3)
	w.finish()
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	p.judge(e.Unix) // through the one that came back, now a proxy
}

// Without this a guest would get errors when the host that owns its disk dies, though the blockd that it talks to
// lives: QEMU has one address. So every compute host runs a blockd of its own, whose socket
// stays the guest's way to the disk whoever owns it.
func TestQemuRidesOverATakeover(t *testing.T) {
	c := mortal(t)
	e, owner := owned(t, c, "ridden")
	front := storageDaemon(t, e.All[1].Unix)
	far := farAway(t, c, "ridden", e.All[1].TCP)
	beside := probe(t, "ridden", e.All[1].Unix)
	w := write(t, front, 5)
	beside.await("I/O before the fault", 200)
	over, err := nbd.Dial(t.Context(), far, nbd.ClientOptions{})
	must(t, err)
	p := piece(1)[:4096]
	_, err = over.WriteAt(p, 210<<20)
	must(t, err)
	killed := kill(t, c, owner)
	_, err = over.WriteAt(p, 220<<20) // it waits, and is not refused
	must(t, err)
	mark(t, "from the kill of the owner to the next write through qemu-storage-daemon and a proxy, over TCP with TLS", time.Since(killed), 8*time.Second)
	n, err := nbd.Dial(t.Context(), front, nbd.ClientOptions{})
	must(t, err)
	_, err = n.WriteAt(p, 200<<20)
	must(t, err)
	mark(t, "from the kill of the owner to the next write through qemu-storage-daemon and a proxy", time.Since(killed), 8*time.Second)
	w.finish()
	seen := make([]byte, len(p))
	if _, err := over.ReadAt(seen, 200<<20); err != nil || !bytes.Equal(seen, p) {
		t.Errorf("what was written after the kill, over TCP and TLS: %v", err)
	}
	must(t, over.Close())
	if d, err := c.Disk("ridden"); err != nil || d.Owner == owner || d.Owner == "" {
		t.Errorf("the owner is %q, was %q: %v", d.Owner, owner, err)
	}
	got := make([]byte, len(p))
	if _, err := n.ReadAt(got, 200<<20); err != nil || !bytes.Equal(got, p) {
		t.Errorf("what was written after the kill: %v", err)
	}
	must(t, n.Close())
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	beside.judge(e.All[2].Unix)
}

// Without this a new leader of metad, or none at all, would be felt by those who read and write.
func TestIOGoesOnWithoutMetad(t *testing.T) {
	c := mortal(t)
	e, _ := owned(t, c, "no-metad")
	p := probe(t, "no-metad", e.Unix)
	through := probeAt(t, "no-metad", 1, e.All[1].Unix)
	w := write(t, e.Unix, 10)
	p.await("I/O before the fault", 200)
	s, err := c.Status()
	must(t, err)
	p.disk.TakeGap()
	kill(t, c, s.Leader())
	p.await("I/O without the leader", 400)
	mark(t, "longest silence when metad's leader died", p.disk.TakeGap(), time.Second)
	for _, m := range []string{"m1", "m2", "m3"} {
		if c.Pid(m) != 0 {
			kill(t, c, m)
		}
	}
	p.await("I/O without any metad", 1500)
	through.await("I/O through a proxy without any metad", 200)
	mark(t, "longest silence without any metad", p.disk.TakeGap(), time.Second)
	// Whose connection broke just now finds the disk, at its owner and at a proxy.
	for _, uri := range []string{e.Unix, strings.Replace(e.Unix, e.DiskID, "no-metad", 1), e.All[1].Unix, strings.Replace(e.All[1].Unix, e.DiskID, "no-metad", 1)} {
		again, err := nbd.Dial(t.Context(), uri, nbd.ClientOptions{})
		must(t, err)
		_, err = again.ReadAt(make([]byte, 4096), 0)
		must(t, err)
		must(t, again.Close())
	}
	w.finish() // ten seconds of writing, far beyond a lease, and all of it read back
	// More than the buffers hold: packing needs groups and segment ids, and has them in hand.
	run(t, "fio", "--name=fill", "--ioengine=nbd", "--uri="+e.Unix, beyondProbes, "--size=200M", "--io_size=300M", "--rw=randwrite", "--bs=64k", "--iodepth=8",
		"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--serialize_overlap=1")
	for _, m := range []string{"m1", "m2", "m3"} {
		revive(t, c, m)
	}
	must(t, c.WaitUp(patience))
	p.await("I/O with metad again", 100)
	p.judge(e.All[2].Unix)
	through.judge(e.Unix)
}

// Without this the loss of power of a whole room would cost acknowledged bytes.
func TestEverythingKilledAndStartedAgain(t *testing.T) {
	c := mortal(t)
	e, _ := owned(t, c, "all-die")
	copied, _ := owned(t, c, "all-die-copy")
	in, out := scratch(t, "in"), scratch(t, "out")
	image(t, in, 256<<20)
	run(t, "nbdcopy", in, copied.Unix)
	p := probe(t, "all-die", e.UnixURIs()...)
	p.await("I/O before the fault", 300)
	for _, d := range []string{"b1", "b2", "b3", "m1", "m2", "m3"} {
		_, err := c.Kill(d)
		must(t, err)
	}
	for _, d := range []string{"m1", "m2", "m3", "b1", "b2", "b3"} {
		must(t, c.StartDaemon(d))
	}
	p.await("I/O after everything died", 200)
	must(t, c.WaitUp(patience))
	run(t, "nbdcopy", copied.All[2].Unix, out)
	sameFiles(t, in, out)
	p.judge(e.Unix)
}
