//go:build e2e

package e2e

import (
	"sync"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// writes makes n writes of 4 KiB over several clients, 32 of each at once, and tells how long that took.
func writes(t *testing.T, clients []*nbd.Client, n int) time.Duration {
	t.Helper()
	started := time.Now()
	left := make(chan int64, n)
	for i := range n {
		left <- int64(i)
	}
	close(left)
	var all sync.WaitGroup
	for _, c := range clients {
		for range 32 {
			all.Go(func() {
				for i := range left {
					if _, err := c.WriteAt(make([]byte, 4096), i%1024*4096); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	all.Wait()
	return time.Since(started)
}

// Without this a disk would be as fast as it likes, or its limits count only where its owner
// sees its clients, or only after they connect anew. Upper bounds only: how close to its limit a
// disk comes is for quiet machines (bench/perf) and for the scheduler's own tests.
func TestLimitsHoldForAllClientsAndChangeLive(t *testing.T) {
	c := undisturbed(t)
	disk(t, c, "limited", "64MiB")
	var clients []*nbd.Client
	for _, uri := range endpoints(t, c, "limited").UnixURIs() { // the owner and proxies
		n, err := nbd.Dial(t.Context(), uri, nbd.ClientOptions{})
		must(t, err)
		defer n.Hangup()
		clients = append(clients, n)
	}
	set := func(args ...string) {
		var d struct {
			Limits struct{ IOPS, BytesPerSecond uint64 }
		}
		must(t, c.JSON(&d, append([]string{"disk", "set", "limited"}, args...)...))
	}
	set("--iops", "200")
	must(t, cluster.Wait("the owner to hear of the limit", patience, func() bool { return writes(t, clients, 220) > 900*time.Millisecond }))
	if took := writes(t, clients, 420); took < 1800*time.Millisecond {
		t.Errorf("420 writes at 200 per second took %v only", took)
	}
	set("--iops", "none", "--bandwidth", "1MiB")
	must(t, cluster.Wait("the owner to hear of the limit", patience, func() bool { return writes(t, clients, 300) > 900*time.Millisecond }))
	if took := writes(t, clients, 512+25); took < 1800*time.Millisecond {
		t.Errorf("2 MiB at 1 MiB/s took %v only", took)
	}
	// What waits under a limit goes on when that is taken away.
	lifted := make(chan time.Duration)
	go func() { lifted <- writes(t, clients, 10_000) }()
	set("--bandwidth", "none")
	if took := <-lifted; took > 30*time.Second {
		t.Errorf("10,000 writes took %v after the limit was taken away; under it they would take 39 s", took)
	}
}
