//go:build mutants

package mutants

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Without this nobody would know whether a green simulation means anything.
func TestEveryMutantIsCaught(t *testing.T) {
	only := os.Getenv("MUTANT") // part of a name
	passes := make(map[string]bool)
	for _, m := range slices.Concat(All, OfSlowStores, InPowerCuts) {
		if !strings.Contains(m.Name, only) {
			continue
		}
		if key := fmt.Sprint(m.World); !passes[key] {
			passes[key] = true
			if out, err := run(t, m.World, ""); err != nil {
				t.Fatalf("%s fails as the source stands: %v\n%s", m.World.Package, err, out)
			}
		}
		t.Run(m.Name, func(t *testing.T) {
			began := time.Now()
			out, err := run(t, m.World, overlay(t, m))
			var failed *exec.ExitError
			switch {
			case err == nil:
				t.Errorf("passes with it: %s -run %s", m.World.Package, m.World.Run)
			case !errors.As(err, &failed):
				t.Fatal(err)
			case strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]"):
				t.Errorf("does not compile:\n%s", out)
			default:
				t.Logf("caught in %.0f s: %s", time.Since(began).Seconds(), verdict(out))
			}
		})
	}
}

// overlay writes the mutated file and tells the compiler to take it instead.
func overlay(t *testing.T, m Mutant) string {
	t.Helper()
	full, err := filepath.Abs(filepath.Join(root, m.File))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutated, list := filepath.Join(dir, "mutated.go"), filepath.Join(dir, "overlay.json")
	spec, err := json.Marshal(map[string]any{"Replace": map[string]string{full: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{mutated: bytes.Replace(text, []byte(m.Old), []byte(m.New), 1), list: spec} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// run runs a world, with an overlay if there is one.
func run(t *testing.T, w World, overlay string) (string, error) {
	t.Helper()
	args := []string{"test", "-count=1", "-vet=off", "-timeout=4m", "-run", "^(" + w.Run + ")"}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	cmd := exec.CommandContext(t.Context(), "go", append(args, w.Package)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), w.Env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// verdict is the line that says what the world saw.
func verdict(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		for _, mark := range []string{"seed", "panic:", "_test.go:"} {
			if strings.Contains(line, mark) {
				return line[:min(len(line), 200)]
			}
		}
	}
	return strings.TrimSpace(out)[:min(len(strings.TrimSpace(out)), 200)]
}
