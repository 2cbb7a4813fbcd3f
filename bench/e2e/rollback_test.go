//go:build e2e

package e2e

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// rollback rolls a disk back as soon as nobody is attached to it, and gives the export of the
// snapshot that keeps what it was.
func rollback(t *testing.T, c *cluster.Cluster, to string) string {
	t.Helper()
	var kept struct{ Export string }
	must(t, cluster.Wait("the rollback to "+to, patience, func() bool {
		return c.JSON(&kept, "disk", "rollback", to) == nil
	}))
	return kept.Export
}

// Without this a rollback could lose what the disk was, or leave it in between: it is refused while
// somebody writes, makes the disk its snapshot though its owner dies meanwhile, keeps what
// was before, and can be undone; and in the end all those snapshots can go.
func TestRollbackAndItsUndoing(t *testing.T) {
	needTools(t, "fio", "nbdcopy", "nbdinfo")
	c := mortal(t)
	disk(t, c, "rolled", "48MiB")
	e := endpoints(t, c, "rolled")
	var sums []string
	for range 2 {
		image := scratch(t, "image")
		b := make([]byte, 48<<20)
		_, err := rand.Read(b[:20<<20])
		must(t, err)
		must(t, os.WriteFile(image, b, 0o600))
		run(t, "nbdcopy", image, e.Unix)
		sums = append(sums, sumOf(t, e.Unix))
		if len(sums) == 1 {
			snapshot(t, c, "rolled", "first")
		}
	}
	for _, x := range e.All { // at its owner and through proxies; no heartbeat tells of it before the rollback is asked for
		must(t, cluster.Wait("clients to be gone", patience, func() bool {
			var d struct{ Sessions int }
			return c.JSON(&d, "disk", "show", "rolled") == nil && d.Sessions == 0
		}))
		n, err := nbd.Dial(t.Context(), x.Unix, nbd.ClientOptions{})
		must(t, err)
		if r, err := c.CLI("disk", "rollback", "rolled@first"); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "detach") {
			t.Errorf("while a client of %s had it open: %v %+v", x.Host, err, r)
		}
		must(t, n.Close())
	}
	write(t, e.Unix, 3, "--size=32M").finish()
	sums[1] = sumOf(t, e.Unix)

	kept := rollback(t, c, "rolled@first")
	id := exportOf(e)
	for export, want := range map[string]string{"rolled": sums[0], kept: sums[1], "rolled@first": sums[0]} {
		if got := sumOf(t, exported(e.Unix, id, export)); got != want {
			t.Errorf("%s is %s, want %s", export, got, want)
		}
	}
	done := make(chan string, 1)
	owner := endpoints(t, c, "rolled").All[0].Host
	go func() { done <- rollback(t, c, kept) }()
	must(t, cluster.Wait("the rollback to begin, or to be done", patience, func() bool {
		var d struct{ State string }
		return c.JSON(&d, "disk", "show", "rolled") == nil && d.State == "rolling back" || len(done) > 0
	}))
	kill(t, c, owner)
	again := <-done
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	for export, want := range map[string]string{"rolled": sums[1], again: sums[0], kept: sums[1]} {
		if got := sumOf(t, exported(e.Unix, id, export)); got != want {
			t.Errorf("undone: %s is %s, want %s", export, got, want)
		}
	}
	dropSnapshots(t, c, "rolled")
	if got := sumOf(t, e.Unix); got != sums[1] {
		t.Errorf("without its snapshots the disk is %s, was %s", got, sums[1])
	}
}
