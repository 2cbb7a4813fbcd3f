//go:build mutants

package mutants

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Without this nobody would know whether a thousand green worlds mean anything.
func TestTheWorldsNoticeMutants(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "sim.test")
	if err := compileWorlds(t, bin, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := liveWorlds(t, bin); err != nil {
		t.Fatalf("the worlds fail as the source stands: %v\n%s", err, out)
	}
	only := os.Getenv("MUTANT") // part of a name
	var table strings.Builder
	for _, m := range InWorlds {
		if !strings.Contains(m.Name, only) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			if err := compileWorlds(t, bin, overlay(t, m)); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			out, err := liveWorlds(t, bin)
			if err == nil {
				t.Fatalf("%d worlds pass with it", WorldSeeds)
			}
			seed, check := seenBy(out)
			t.Logf("caught by seed %s in %.0f s: %s", seed, time.Since(began).Seconds(), check)
			fmt.Fprintf(&table, "| %s | `%s` | %s | %s |\n", m.Name, m.File, check, seed)
		})
	}
	t.Logf("\n%s", table.String())
}

func compileWorlds(t *testing.T, bin, overlay string) error {
	t.Helper()
	args := []string{"test", "-c", "-vet=off", "-o", bin}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, "./bench/sim")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("does not compile: %w\n%s", err, out)
	}
	return nil
}

func liveWorlds(t *testing.T, bin string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, "-test.run=TestWorlds$", "-test.v", "-test.timeout=10m")
	cmd.Dir = filepath.Join(root, "bench/sim")
	cmd.Env = append(os.Environ(), fmt.Sprintf("SEEDS=%d", WorldSeeds), "SEED=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var violation = regexp.MustCompile(`world_test\.go:\d+: seed (\d+) at [^:]+: ([^:]+):`)

// seenBy gives the seed of the world that failed first, and which of its checks did.
func seenBy(out string) (seed, check string) {
	if m := violation.FindStringSubmatch(out); m != nil {
		return m[1], m[2]
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "panic:") {
			return "?", "an assertion of the product: `" + strings.TrimSpace(line) + "`"
		}
	}
	return "?", "the test itself"
}
