package log

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// Without this the bytes of the log could change and old logs be misread.
// FORMAT.md has the tables.
func TestGoldenBytes(t *testing.T) {
	d := newLab(t, 64<<10, 4)
	d.write(1, streamA, streamB)
	d.release(streamA, 1)
	d.write(0, streamA)
	var out strings.Builder
	for off := int64(0); off < d.l.off; off += Block {
		page := d.swap(d.l.cur.slot, off, zeros())
		d.swap(d.l.cur.slot, off, page)
		page = []byte(strings.TrimRight(string(page), "\x00"))
		fmt.Fprintf(&out, "block %d, %d bytes\n  %s\n", off/Block, len(page), hex.EncodeToString(page[:min(len(page), 512)]))
	}
	const name = "testdata/bytes.golden"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != string(want) {
		t.Errorf("%s differs; got\n%s", name, got)
	}
}
