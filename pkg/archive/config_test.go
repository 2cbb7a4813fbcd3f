package archive_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/errs"
)

// Without this a key in a file that all may read would pass for a secret, or a key command would hang or tell.
func TestKeyComesFromAFileOrACommand(t *testing.T) {
	key := strings.Repeat("5a", 32)
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte(key+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := (&archive.Config{KeyFile: name}).Secret(ctx); !errors.Is(err, errs.ErrDenied) {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := (&archive.Config{KeyFile: name}).Secret(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&archive.Config{KeyCommand: []string{"cat", name}}).Secret(ctx)
	if err != nil || a.ID() != b.ID() {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{{"sh", "-c", "echo " + key[1:]}, {"sh", "-c", "echo " + key + " >&2; exit 1"}, {"/nonexistent"}} {
		if _, err := (&archive.Config{KeyCommand: cmd}).Secret(ctx); err == nil || strings.Contains(err.Error(), key[1:]) {
			t.Errorf("%v", err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := (&archive.Config{KeyCommand: []string{"sh", "-c", "sleep 60; true"}}).Secret(short); !errors.Is(err, errs.ErrTimeout) {
		t.Errorf("a command that hangs, and whose child has its output: %v", err)
	}
	if _, err := (&archive.Config{KeyCommand: []string{"yes"}}).Secret(ctx); !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("a command that prints without end: %v", err)
	}
	if s, err := (&archive.Config{}).Secret(ctx); s != nil || err != nil {
		t.Error(s, err)
	}
}
