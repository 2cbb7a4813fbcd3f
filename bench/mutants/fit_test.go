package mutants

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// Without this a mutant whose place was rewritten would break nothing, and its run say nothing.
func TestEveryMutantFitsTheSource(t *testing.T) {
	for _, list := range [][]Mutant{All, OfSlowStores, InWorlds, InPowerCuts} {
		seen := make(map[string]bool)
		for _, m := range list {
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
}

// Without this a misspelt name would take nothing.
func TestMutantsOfTheWorldsAreThere(t *testing.T) {
	if len(InWorlds) < 12 || slices.ContainsFunc(InWorlds, func(m Mutant) bool { return m.Name == "" }) {
		t.Errorf("%d mutants, one of them of a name that All has not", len(InWorlds))
	}
}
