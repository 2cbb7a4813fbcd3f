//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// Without this a disk that is overwritten for ever would fill the cluster, or its cleaner
// would lose what it moves: random overwrites, verified across the death of the
// disk's owner, take a bounded multiple of what lives.
func TestOverwritingADiskTakesBoundedSpace(t *testing.T) {
	needTools(t, "fio")
	c := mortal(t)
	before, err := c.Status()
	must(t, err)
	const size = 256 << 20
	disk(t, c, "worn", fmt.Sprint(size))
	e := endpoints(t, c, "worn")
	overwrite := func(more ...string) {
		t.Helper()
		run(t, "fio", append([]string{"--name=worn", "--ioengine=nbd", "--uri=" + endpoints(t, c, "worn").Unix, "--rw=randwrite", "--bs=16k", "--iodepth=32",
			"--size=" + fmt.Sprint(size), "--randrepeat=0"}, more...)...)
	}
	run(t, "fio", "--name=fill", "--ioengine=nbd", "--uri="+e.Unix, "--rw=write", "--bs=1M", "--iodepth=4", "--size="+fmt.Sprint(size))
	overwrite("--norandommap", "--io_size=384M")
	owner := endpoints(t, c, "worn").All[0].Host
	kill(t, c, owner)
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	overwrite("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0")
	var grew int64
	err = cluster.Wait("the space of what is dead", patience, func() bool {
		s, err := c.Status()
		must(t, err)
		grew = int64(s.UsedBytes) - int64(before.UsedBytes)
		return grew < size*25/10
	})
	t.Logf("%d MiB live in 4+2 take %d MiB, %.2f times", size>>20, grew>>20, float64(grew)/size)
	must(t, err)
}
