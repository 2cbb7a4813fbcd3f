//go:build e2e

package e2e

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// stutter lets a daemon run for a twentieth of a second, three times a second, until stop: it
// lives, its connections and heartbeats hold, and everything it answers comes late.
func stutter(t *testing.T, c *cluster.Cluster, daemon string) (stop func()) {
	t.Helper()
	pid := c.Pid(daemon)
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			sig := syscall.SIGSTOP
			if n%7 == 0 {
				sig = syscall.SIGCONT
			}
			_ = syscall.Kill(pid, sig) // should it have died the test fails elsewhere
			select {
			case <-over:
				_ = syscall.Kill(pid, syscall.SIGCONT)
				return
			case <-tick.C:
			}
		}
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			close(over)
			<-ended
		}
	}
	t.Cleanup(stop)
	return stop
}

// slowHosts are the hosts of the stores that status finds slow.
func slowHosts(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	s, err := c.Status()
	must(t, err)
	hosts := make(map[string]string)
	for _, x := range s.Stores {
		hosts[x.StoreID] = x.Host
	}
	var slow []string
	for _, r := range s.Reasons {
		if r.Code == "store_slow" {
			slow = append(slow, hosts[r.Subject])
		}
	}
	return strings.Join(slow, " ")
}

// cold are blocks of a disk that are packed and that nobody has read, no two from one place on a store.
type cold struct {
	t      *testing.T
	n      *nbd.Client
	places []int
}

// coldUnit is how far apart they are: as much as lies together in a shard.
const coldUnit = 64 << 10

// chill writes a part of a disk and waits until it is packed.
func chill(t *testing.T, c *cluster.Cluster, uri string, from, to int64) *cold {
	t.Helper()
	n, err := nbd.Dial(t.Context(), uri, nbd.ClientOptions{})
	must(t, err)
	t.Cleanup(n.Hangup)
	for at := from; at < to; at += 1 << 20 {
		_, err := n.WriteAt(piece(int(at>>20)), at)
		must(t, err)
	}
	must(t, cluster.Wait("what was written to be packed", patience, func() bool {
		s, err := c.Status()
		return err == nil && s.UnpackedBytes < 1<<20
	}))
	x := &cold{t: t, n: n}
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(int((to - from) / coldUnit)) {
		x.places = append(x.places, int(from)+i*coldUnit)
	}
	return x
}

// late reads blocks and writes some, and says in how many of a hundred cases it took long.
func (x *cold) late() (reads, writes int) {
	x.t.Helper()
	const asked, long = 150, 100 * time.Millisecond
	b := make([]byte, 4096)
	for i, at := range x.places[:asked] {
		began := time.Now()
		_, err := x.n.ReadAt(b, int64(at))
		must(x.t, err)
		if time.Since(began) > long {
			reads++
		}
		if want := piece(at >> 20)[at&(1<<20-1):][:4096]; !bytes.Equal(b, want) {
			x.t.Fatalf("wrong bytes at %d", at)
		}
		began = time.Now()
		_, err = x.n.WriteAt(b, int64(at))
		must(x.t, err)
		if time.Since(began) > long {
			writes++
		}
		if i == asked-1 {
			x.places = x.places[asked:]
		}
	}
	return reads * 100 / asked, writes * 100 / asked
}

// passed checks that who reads and writes does not wait for a store that is named slow. Its host holds a third of what is
// read and stands still for six sevenths of the time: waiting for it, a fifth of the reads takes long. Other
// work on the machine counts, so it has three tries.
func passed(t *testing.T, x *cold, readsBefore, writesBefore int) {
	t.Helper()
	for range 3 {
		reads, writes := x.late()
		t.Logf("beside a slow store: %d %% of reads and %d %% of writes are late", reads, writes)
		if reads <= readsBefore+8 && writes <= writesBefore+8 {
			return
		}
	}
	t.Error("reads or writes wait for a store that is known to be slow")
}

// Without this a store that is sick but not dead would be nobody's fault, and every read of its
// blocks would wait for it.
func TestSlowStoreIsNamedAndPassed(t *testing.T) {
	c := mortal(t)
	disk(t, c, "slow", "64MiB")
	e := endpoints(t, c, "slow")
	x := chill(t, c, e.Unix, 16<<20, 64<<20)
	p := probe(t, "slow", e.Unix)
	host := "b3"
	if strings.Contains(e.Unix, "b3.sock") {
		host = "b2"
	}
	reads, writes := x.late()
	t.Logf("before: %d %% of reads and %d %% of writes are late", reads, writes)
	stop := stutter(t, c, host)
	at := time.Now()
	must(t, cluster.Wait("status to name the slow store", patience, func() bool { return slowHosts(t, c) != "" }))
	t.Logf("named after %s: %s", time.Since(at).Round(time.Millisecond), slowHosts(t, c))
	if got := strings.Fields(slowHosts(t, c)); len(got) > 0 && (got[0] != host || got[len(got)-1] != host) {
		t.Errorf("%s stutters, slow are stores on %s", host, got)
	}
	passed(t, x, reads, writes)
	stop()
	must(t, cluster.Wait("the store to be in again", patience, func() bool { return slowHosts(t, c) == "" }))
	p.judge(e.Unix)
}
