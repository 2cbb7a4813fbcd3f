//go:build e2e

package e2e

import (
	"bufio"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/devcluster"
	"ashlar.dev/pkg/nbd"
)

// counted sums figures of all blockds that answer.
func counted(t *testing.T, c *cluster.Cluster, names ...string) (sum float64) {
	t.Helper()
	f, err := devcluster.LoadFile(c.Dir)
	must(t, err)
	for _, b := range f.Dev.Blockds {
		r, err := http.Get("http://" + b.Debug + "/metrics")
		if err != nil {
			continue // it is away
		}
		for lines := bufio.NewScanner(r.Body); lines.Scan(); {
			name, rest, _ := strings.Cut(lines.Text(), " ")
			name, _, _ = strings.Cut(name, "{")
			if v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64); err == nil && slices.Contains(names, name) {
				sum += v
			}
		}
		must(t, r.Body.Close())
	}
	return sum
}

// packed waits until all that was written is in segments. The owners say so themselves: what metad knows is as old as their last
// heartbeat, and may be of before the writing.
func packed(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	must(t, cluster.Wait("all to be packed", patience, func() bool { return counted(t, c, "blockd_volume_unpacked_bytes") == 0 }))
}

// Without this every reboot of a host would move all that its disks hold, twice its size in
// traffic, or it would come back with holes: what it missed is made, and no more. In the end another host
// dies, so that every block needs what came back.
func TestRebootMovesOnlyWhatWasMissed(t *testing.T) {
	c := mortal(t)
	const before, missed = 192, 8 // MiB
	// Long writes, one at a time, make a short segment each, which the cleaner merges in its own time. Of shorter ones segments are
	// full, and nothing is moved but for what was missed.
	const short = 64 << 10
	_, err := c.Create("rebooted", "256MiB")
	must(t, err)
	e := endpoints(t, c, "rebooted")
	n, err := nbd.Dial(t.Context(), e.Unix, nbd.ClientOptions{})
	must(t, err)
	defer n.Hangup()
	write := func(from, to int) {
		for i := from; i < to; i++ {
			for part, b := range slices.Collect(slices.Chunk(piece(i), short)) {
				_, err := n.WriteAt(b, int64(i)*pieceSize+int64(part)*short)
				must(t, err)
			}
		}
		packed(t, c)
	}
	// In a group of fewer stores, while some are away, is what is coded anew when they are back.
	settled := func() {
		must(t, c.WaitHealthy(2*patience))
		must(t, cluster.Wait("all to be coded in full", patience, func() bool {
			var g growth
			return c.JSON(&g, "status") == nil && g.Recoding.Groups == 0 && g.Recoding.BytesLeft == 0
		}))
	}
	settled() // or the first blocks lie in a group of fewer stores, too
	write(0, before)
	settled()
	owner := endpoints(t, c, "rebooted").All[0].Host
	others := slices.DeleteFunc([]string{"b1", "b2", "b3"}, func(h string) bool { return h == owner })
	figures := []string{"blockd_repair_moved_bytes_total", "blockd_volume_cleaned_bytes_total"}
	moved := -counted(t, c, figures...)

	kill(t, c, others[0])
	must(t, cluster.Wait("metad to miss it", patience, func() bool {
		s, err := c.Status()
		return err == nil && s.Counts.StoresUp == 4
	}))
	write(before, before+missed)
	revive(t, c, others[0])
	settled()
	moved += counted(t, c, figures...)
	t.Logf("%.1f MiB moved for %d MiB written meanwhile, beside %d MiB of shards on the host", moved/pieceSize, missed, before/2)
	if moved > 4*missed*pieceSize {
		t.Errorf("%.1f MiB were moved when the host came back, %d MiB were written meanwhile", moved/pieceSize, missed)
	}
	kill(t, c, others[1])
	pieces(t, n, 0, before+missed, 1)
	revive(t, c, others[1])
	n.Hangup()
	must(t, cluster.Wait("the disk to be deleted", patience, func() bool {
		r, err := c.CLI("disk", "delete", "rebooted", "--force")
		return err == nil && r.Code == 0
	}))
}
