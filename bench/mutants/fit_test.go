package mutants

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// Without this a mutant whose place was rewritten would break nothing, and its run say nothing.
func TestEveryMutantFitsTheSource(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range All {
		if seen[m.Name] || m.Old == m.New {
			t.Errorf("%s: is there twice, or changes nothing", m.Name)
		}
		seen[m.Name] = true
		text, err := os.ReadFile(filepath.Join(root, m.File))
		if err != nil {
			t.Error(err)
			continue
		}
		if n := strings.Count(string(text), m.Old); n != 1 {
			t.Errorf("%s: what it replaces is %d times in %s", m.Name, n, m.File)
		}
		if _, err := os.Stat(filepath.Join(root, m.World.Package)); err != nil {
			t.Error(err)
		}
	}
}
