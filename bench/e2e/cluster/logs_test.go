package cluster

import (
	"os"
	"path/filepath"
	"testing"
)

// Without this a daemon that was killed while it wrote a line would fail a run by the half of it.
func TestHalfALineIsNoComplaint(t *testing.T) {
	for text, complains := range map[string]bool{
		"time=2026-11-22T23:10:35.371Z level=WARN mtime=2026-11-22T23:10:36.323Z level=INFO msg=serving\n":          false,
		"time=2026-11-22T23:10:35.371Z level=INFO mtime=2026-11-22T23:10:36.323Z level=WARN msg=\"nobody knows\"\n": true,
		"time=2026-11-22T23:10:35.371Z level=ERROR msg=\"nobody knows\"\n":                                          true,
		"panic: at the disco\n": true,
	} {
		name := filepath.Join(t.TempDir(), "b1.log")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := CheckLogs([]string{name}, nil); (err != nil) != complains {
			t.Errorf("%q: %v", text, err)
		}
	}
}
