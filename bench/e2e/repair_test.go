//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// roomy is a cluster with a host more than the placement groups need. Its disk "healed"
// has what the file has that is returned.
func roomy(t *testing.T) (c *cluster.Cluster, in string) {
	t.Helper()
	c, err := cluster.Start(cluster.Options{Args: []string{"--no-restart", "--blockd", "4", "--store-size", "2GiB",
		"--metad-config", "testdata/out-soon.yaml", "--blockd-config", "testdata/small-buffers.yaml"}, Allowed: append([]cluster.Allowance{
		{Pattern: `level=WARN msg="store left out, metad does not take it"`, Reason: "a host starts with a store that was emptied and removed"}}, cluster.Faults...)})
	must(t, err)
	t.Cleanup(func() {
		if err := c.Stop(t.Failed()); err != nil {
			t.Error(err)
		}
	})
	must(t, c.WaitHealthy(patience))
	in = scratch(t, "in")
	image(t, in, 128<<20)
	_, err = c.Create("healed", "128MiB")
	must(t, err)
	run(t, "nbdcopy", "--flush", in, endpoints(t, c, "healed").Unix)
	return c, in
}

// at is where the disk is served by a blockd.
func at(t *testing.T, c *cluster.Cluster, host string) string {
	t.Helper()
	for _, e := range endpoints(t, c, "healed").All {
		if e.Host == host {
			return e.Unix
		}
	}
	t.Fatalf("no endpoint on %s", host)
	return ""
}

func healthIs(t *testing.T, c *cluster.Cluster, want string) {
	t.Helper()
	var last cluster.Status
	err := cluster.Wait("health "+want, patience, func() bool {
		var err error
		last, err = c.Status()
		return err == nil && last.Health == want
	})
	if err != nil {
		t.Fatalf("%v; it is %s: %+v", err, last.Health, last.Reasons)
	}
}

// Without this the loss of two hosts, one after the other, would be the loss of the data,
// however long lay in between. The first host's disks are gone for good.
func TestClusterHealsAfterALostHost(t *testing.T) {
	needTools(t, "nbdcopy")
	c, in := roomy(t)
	_, err := c.Kill("b1")
	must(t, err)
	stores, err := filepath.Glob(filepath.Join(c.Dir, "data", "b1", "s*"))
	must(t, err)
	for _, s := range stores {
		must(t, os.RemoveAll(s))
	}
	must(t, cluster.Wait("metad to miss b1", patience, func() bool {
		st, err := c.Status()
		return err == nil && st.Health != "OK"
	}))
	healthIs(t, c, "OK")
	_, err = c.Kill("b2")
	must(t, err)
	out := scratch(t, "out")
	run(t, "nbdcopy", at(t, c, "b3"), out)
	sameFiles(t, in, out)
}

// Without this a disk could not be taken out of a machine but by losing it, or by a restart of
// its blockd, which would hold on to it. A blockd whose other stores serve starts without it.
func TestStoreIsEmptiedAndRemoved(t *testing.T) {
	needTools(t, "nbdcopy")
	c, in := roomy(t)
	st, err := c.Status()
	must(t, err)
	store := ""
	for _, s := range st.Stores {
		if s.Host == "b2" {
			store = s.StoreID
		}
	}
	r, err := c.CLI("store", "drain", store)
	must(t, err)
	if r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	must(t, cluster.Wait("the store to be removed", patience, func() bool {
		st, err := c.Status()
		return err == nil && len(st.Stores) == 7
	}))
	isLetGo(t, c, "b2")
	healthIs(t, c, "OK")
	_, err = c.Kill("b2")
	must(t, err)
	out := scratch(t, "out")
	run(t, "nbdcopy", at(t, c, "b3"), out)
	sameFiles(t, in, out)
	must(t, c.StartDaemon("b2"))
	must(t, c.WaitHealthy(patience))
}

// isLetGo waits until a blockd that lives has closed a store that was removed: its folder is nobody's.
func isLetGo(t *testing.T, c *cluster.Cluster, host string) {
	t.Helper()
	pid, dir := c.Pid(host), ""
	all, err := filepath.Glob(filepath.Join(c.Dir, "data", host, "s*"))
	must(t, err)
	must(t, cluster.Wait("the removed store to be closed", patience, func() bool {
		for _, d := range all {
			r, err := c.CLI("blockd", "check", d)
			must(t, err)
			if r.Code == 0 {
				dir = d
			}
		}
		return dir != ""
	}))
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, fd := range open {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir+"/") {
			t.Errorf("%s has %s open", host, to)
		}
	}
	if c.Pid(host) != pid {
		t.Errorf("%s was started anew", host)
	}
	must(t, cluster.Wait("the event that says so", patience, func() bool {
		events, err := c.CLI("events")
		return err == nil && strings.Contains(events.Stdout, "store_closed")
	}))
}
