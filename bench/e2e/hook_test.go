//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// Without this an application could stay frozen because the daemon that froze it died, or a snapshot be called consistent that is not.
func TestApplicationIsThawedWhateverHappens(t *testing.T) {
	dir := t.TempDir()
	said, config := filepath.Join(dir, "said"), filepath.Join(dir, "hooks.yaml")
	command := func(text string) string {
		return fmt.Sprintf(`["/bin/sh", "-c", "echo %s >> %s"]`, text, said)
	}
	must(t, os.WriteFile(config, fmt.Appendf(nil, `hooks:
  - {name: app, freeze: %[1]s, thaw: %[2]s}
  - {name: refuses, freeze: ["/bin/sh", "-c", "echo the database says no; exit 1"], thaw: %[2]s}
  - {name: hangs, freeze: ["/bin/sleep", "1000"], thaw: %[2]s}
  - {name: kills, freeze: ["/bin/sh", "-c", "echo dying >> %[3]s; kill -9 $PPID; sleep 1000"], thaw: %[2]s}
`, command("frozen"), command("thawed"), said), 0o600))
	allowed := append(slices.Clone(cluster.Faults), cluster.Allowance{Pattern: `level=WARN msg="an application was left frozen`, Reason: "its daemon is killed"})
	c, err := cluster.Start(cluster.Options{Allowed: allowed, Args: []string{"--metad", "1", "--blockd", "2", "--store-size", "1GiB", "--blockd-config", config}})
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop(t.Failed())) })
	disk(t, c, "d", "64MiB")
	steps := func() string {
		b, _ := os.ReadFile(said) // none yet
		return strings.Join(strings.Fields(string(b)), " ")
	}
	must(t, cluster.Wait("the hosts' hooks", patience, func() bool { return strings.Count(ashlar(t, c, "policy", "hooks"), "kills") == 2 }))
	ashlar(t, c, "snapshot", "create", "d", "--name", "good", "--hook", "b1/app")
	if steps() != "frozen thawed" {
		t.Errorf("it was %q", steps())
	}
	for i, x := range []struct{ hook, why string }{{"b1/refuses", "the database says no"}, {"b2/hangs", "did not end within 1s"}, {"b1/none", "has no hook none"}} {
		r, err := c.CLI("snapshot", "create", "d", "--name", fmt.Sprint("bad", i), "--hook", x.hook, "--hook-timeout", "1s")
		if err != nil || r.Code == 0 || !strings.Contains(r.Stderr, x.why) {
			t.Errorf("%s: %v %+v", x.hook, err, r)
		}
	}
	bin, err := cluster.BinDir()
	must(t, err)
	cmd := exec.Command(filepath.Join(bin, "ashlar"), "--data", c.Dir, "snapshot", "create", "d", "--name", "bad", "--hook", "b2/kills")
	must(t, cmd.Start())
	must(t, cluster.Wait("the daemon to be killed", patience, func() bool { return strings.Contains(steps(), "dying") }))
	_ = cmd.Process.Kill() // or it would be killed again and again
	_ = cmd.Wait()
	must(t, cluster.Wait("the daemon that was killed to thaw", patience, func() bool { return strings.HasSuffix(steps(), "dying thawed") }))
	if all := ashlar(t, c, "snapshot", "list", "d"); strings.Contains(all, "bad") || !strings.Contains(all, "good") {
		t.Errorf("snapshots:\n%s", all)
	}
	dropSnapshots(t, c, "d")
}
