package reference

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/config"
)

// Limits is a section of the sample.
type limits struct {
	// Memory for clean pages.
	Cache config.ByteSize `yaml:"cache"`
	Wait  config.Duration `yaml:"wait"` // Longest wait, or | never.
}

func (l *limits) EnsureDefaults() {
	if l.Cache == 0 {
		l.Cache = 64 * config.MiB
	}
}

type sample struct {
	// Name of the daemon.
	ID string `yaml:"id"`
	// Bounds of memory
	// and time.
	Limits limits `yaml:"limits"`
	// What it stands on.
	Stores []limits `yaml:"stores"`
	// Whether it may.
	Format bool `yaml:"format"`
}

// Without this a key could be missing from the reference, or documented wrongly.
func TestMarkdownHasEveryKey(t *testing.T) {
	got, err := Markdown("Sample", &sample{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Sample\n", "| `id` | text |  | Name of the daemon. |\n", "| `limits` | section |  | Bounds of memory and time. |\n",
		"| `limits.cache` | size | `64MiB` | Memory for clean pages. |\n", "| `limits.wait` | duration |  | Longest wait, or \\| never. |\n",
		"| `stores[]` | section |", "| `stores[].cache` | size | `64MiB` |", "| `format` | yes or no | `false` |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}

// Without this the example in deploy would not load, or nobody would know what its keys mean.
func TestExampleLoadsBack(t *testing.T) {
	cfg := sample{ID: "b1", Limits: limits{Cache: config.GiB, Wait: config.Duration(time.Second)}, Stores: []limits{{}, {}}}
	text, err := Example("A sample.\nTwo lines.", &cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# A sample.\n# Two lines.\n\n", "# Name of the daemon.\nid: b1\n", "  # Memory for clean pages.\n  cache: 1GiB\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q in\n%s", want, text)
		}
	}
	var back sample
	if err := config.Decode([]byte(text), &back); err != nil || back.Limits != cfg.Limits || len(back.Stores) != 2 {
		t.Errorf("loaded %+v, %v", back, err)
	}
	path := filepath.Join(t.TempDir(), "d", "x.yaml")
	if err := Check(path, text); err == nil {
		t.Error("a missing file passed")
	}
	if err := Update(path, text); err != nil {
		t.Fatal(err)
	}
	if err := Check(path, text); err != nil {
		t.Error(err)
	}
	if err := Check(path, text+"x"); err == nil {
		t.Error("a stale file passed")
	}
}

type silent struct {
	Quiet int `yaml:"quiet"`
}

// Without this a setting could ship that nobody can read about.
func TestFieldWithoutCommentIsAnError(t *testing.T) {
	if _, err := Markdown("x", &silent{}); err == nil || !strings.Contains(err.Error(), "silent.Quiet has no comment") {
		t.Errorf("got %v", err)
	}
}
