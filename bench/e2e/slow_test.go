//go:build e2e

package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
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

// Without this a store that is sick but not dead would be nobody's fault, and every read of its
// blocks would wait for it.
func TestSlowStoreIsNamedAndPassed(t *testing.T) {
	c := mortal(t)
	disk(t, c, "slow", "64MiB")
	e := endpoints(t, c, "slow")
	p := probe(t, "slow", e.Unix)
	host := "b3"
	if strings.Contains(e.Unix, "b3.sock") {
		host = "b2"
	}
	stop := stutter(t, c, host)
	at := time.Now()
	must(t, cluster.Wait("status to name the slow store", patience, func() bool { return slowHosts(t, c) != "" }))
	t.Logf("named after %s: %s", time.Since(at).Round(time.Millisecond), slowHosts(t, c))
	if got := strings.Fields(slowHosts(t, c)); len(got) > 0 && (got[0] != host || got[len(got)-1] != host) {
		t.Errorf("%s stutters, slow are stores on %s", host, got)
	}
	p.await("answers beside a slow store", 200)
	stop()
	must(t, cluster.Wait("the store to be in again", patience, func() bool { return slowHosts(t, c) == "" }))
	p.judge(e.Unix)
}
