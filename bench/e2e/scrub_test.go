//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// mends is what a store says when it finds a wrong shard: here that is what is wanted.
var mends = append([]cluster.Allowance{
	{Pattern: `level=WARN msg="a (wrong|missing) shard was rebuilt from others`, Reason: "the test damages files of stores"},
	{Pattern: `level=ERROR msg="extent files are missing or cut off`, Reason: "the test cuts one off"},
}, cluster.Faults...)

// scrubbed is what the test reads of ashlar scrub -o json.
type scrubbed struct {
	Done                          bool
	Shards                        uint64
	Wrong, Missing, Mended, Stuck uint64
	Stores                        []struct {
		StoreID, Host, State, Problem string
		Wrong, Mended                 uint64
	}
}

func extentFile(t *testing.T, c *cluster.Cluster, store string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir, "data", store, "extents", "*.ext"))
	must(t, err)
	if len(files) == 0 {
		t.Fatalf("store %s has no shards", store)
	}
	return files[0]
}

// rot flips bytes all over a file, while it is in use.
func rot(t *testing.T, file string, bytes int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	must(t, err)
	b := make([]byte, 64)
	for at := int64(4096); at < bytes; at += 300_007 {
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] ^= 0xa5
		}
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	must(t, f.Close())
}

// Without this bytes that rot where nobody reads would be found when too many have. One
// store's file rots, another's is cut off while its daemon is down: as much as 4+2 bears. All is read
// right before and after, the scrub finds and mends it, the stores' own bytes are right
// again, and status names the disk that is not to be trusted.
func TestScrubMendsWhatRots(t *testing.T) {
	needTools(t, "nbdcopy")
	c, err := cluster.Start(cluster.Options{Args: []string{"--no-restart", "--store-size", "2GiB", "--blockd-config", "testdata/small-buffers.yaml"}, Allowed: mends})
	must(t, err)
	t.Cleanup(func() {
		if err := c.Stop(t.Failed()); err != nil {
			t.Error(err)
		}
	})
	must(t, c.WaitHealthy(patience))
	in := scratch(t, "in")
	must(t, os.WriteFile(in, pattern(1, 96), 0o600)) // six segments of data: one shard of each on every store
	_, err = c.Create("healed", "96MiB")
	must(t, err)
	run(t, "nbdcopy", "--flush", in, endpoints(t, c, "healed").Unix)
	packed(t, c)
	_, err = c.Kill("b1")
	must(t, err)
	must(t, os.Truncate(extentFile(t, c, "b1/s2"), 1<<20))
	rot(t, extentFile(t, c, "b1/s1"), 32<<20)
	for dir, code := range map[string]int{"b1/s1": 1, "b2/s1": 2} { // rotten, and in use
		r, err := c.CLI("blockd", "check", filepath.Join(c.Dir, "data", dir))
		must(t, err)
		if r.Code != code {
			t.Errorf("check of %s: %+v, want exit code %d", dir, r, code)
		}
	}
	must(t, c.StartDaemon("b1"))
	must(t, cluster.Wait("all stores to be up", patience, func() bool {
		st, err := c.Status()
		return err == nil && st.Counts.StoresUp == 6 && st.Counts.BlockdsUp == 3
	}))
	out := scratch(t, "out")
	run(t, "nbdcopy", at(t, c, "b2"), out)
	sameFiles(t, in, out)

	first := scrub(t, c, "healed")
	st := storesOf(t, c, "b1")
	for _, s := range st {
		if s.Care.Wrong+s.Care.Missing == 0 || s.Care.Mended != s.Care.Wrong+s.Care.Missing || s.Care.Stuck != 0 {
			t.Errorf("%+v", s)
		}
	}
	if first.Stuck != 0 || first.Shards == 0 {
		t.Fatalf("%+v", first)
	}
	if again := scrub(t, c, ""); again.Wrong+again.Missing+again.Stuck != 0 {
		t.Fatalf("not mended: %+v", again)
	}
	healthNames(t, c, "store_bad_blocks")

	rot(t, extentFile(t, c, "b2/s1"), 32<<20) // live
	if got := scrub(t, c, ""); got.Wrong == 0 || got.Mended != got.Wrong {
		t.Fatalf("%+v", got)
	}
	_, err = c.Kill("b3") // now every shard of the other two hosts is needed, and right
	must(t, err)
	run(t, "nbdcopy", at(t, c, "b1"), out)
	sameFiles(t, in, out)
}

func scrub(t *testing.T, c *cluster.Cluster, target string) (s scrubbed) {
	t.Helper()
	args := []string{"scrub", "--wait"}
	if target != "" {
		args = append(args, target)
	}
	must(t, c.JSON(&s, args...))
	if !s.Done {
		t.Fatalf("%+v", s)
	}
	return s
}

type careOf struct {
	StoreID, Host string
	Care          struct {
		Wrong, Missing, Mended, Stuck uint64
		Flagged                       bool
	}
}

// storesOf lists the stores of a host.
func storesOf(t *testing.T, c *cluster.Cluster, host string) (out []careOf) {
	t.Helper()
	var all []careOf
	must(t, c.JSON(&all, "store", "list"))
	for _, s := range all {
		if s.Host == host {
			out = append(out, s)
		}
	}
	return out
}

func healthNames(t *testing.T, c *cluster.Cluster, code string) {
	t.Helper()
	must(t, cluster.Wait("health to say "+code, patience, func() bool {
		st, err := c.Status()
		for _, r := range st.Reasons {
			if r.Code == code {
				return err == nil
			}
		}
		return false
	}))
}
