package server

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// Without this a slip in a size would make a store with no room for a disk, and a script could not tell a store
// that is there already from one that failed.
func TestFormatRefusesWithItsExitCode(t *testing.T) {
	dir := t.TempDir() + "/s"
	for _, c := range []struct {
		size string
		code int
		says string
	}{{"10", codeCannot, "at least"}, {"much", codeCannot, "much"}, {"1GiB", codeFine, "st-"}, {"1GiB", codeThere, "left as it is"}} {
		var out bytes.Buffer
		code, is := Command([]string{"store", "format", "--size", c.size, dir}, &out, &out)
		if !is || code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("--size %s: exit code %d, want %d: %s", c.size, code, c.code, out.String())
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the store's folder: %v, %v", fi.Mode(), err)
	}
}
