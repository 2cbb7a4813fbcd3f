//go:build chaos

package chaos

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
)

// Without this nobody would know whether clients of a cluster under faults ever see a lost,
// stale or torn block. SEED repeats a plan, CHAOS_SECONDS says how long, FAULTS takes only some
// kinds (names as the report has them, apart by commas).
func TestChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) % 1_000_000
	if text := os.Getenv("SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("SEED: %v", err)
		}
		seed = n
	}
	seconds := 120
	if text := os.Getenv("CHAOS_SECONDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("CHAOS_SECONDS: %v", err)
		}
		seconds = n
	}
	o := Options{Seed: seed, For: time.Duration(seconds) * time.Second}
	if text := os.Getenv("FAULTS"); text != "" {
		kinds, err := ParseKinds(text)
		if err != nil {
			t.Fatal(err)
		}
		o.Kinds = kinds
	}
	run(t, o)
}

// Without this an engine that answers a failed read with what its buffer holds would come
// back: seeds 1, 2 and 4 showed blocks with bytes of others while stores were away.
func TestChaosReadsWhileStoresAreAway(t *testing.T) {
	if os.Getenv("SEED") != "" {
		t.Skip("a seed is looked into; the seeds that failed once run without SEED")
	}
	for _, seed := range []uint64{1, 2, 4} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			run(t, Options{Seed: seed, For: 8 * time.Second, Kinds: []Kind{KillOwnerAndLeader, CutPair, KillAll, CutOwnerInward}})
		})
	}
}

func run(t *testing.T, o Options) {
	t.Helper()
	bin, err := cluster.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	o.BinDir, o.SaveDir, o.Out = bin, "failures", os.Stdout
	t.Logf("seed %d; repeat the plan with: make chaos SEED=%d", o.Seed, o.Seed)
	report, err := Run(o)
	if err != nil {
		t.Errorf("seed %d: the run broke off: %v", o.Seed, err)
	}
	if report == nil {
		return
	}
	for _, p := range report.Problems() {
		t.Error(p)
	}
	t.Logf("%s", report.Markdown())
	if t.Failed() {
		t.Logf("repeat with: make chaos SEED=%d", o.Seed)
	}
}
