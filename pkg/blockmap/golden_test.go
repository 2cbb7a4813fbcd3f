package blockmap

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	// Longer runs: -rapid.checks=3000 -rapid.steps=150.
	for name, value := range map[string]string{"rapid.checks": "100", "rapid.steps": "60"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	flag.Parse()
	os.Exit(m.Run())
}

// golden compares pages with testdata/name: hexadecimal, a line for every 32
// bytes that are not all zero, with its offset.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		var text strings.Builder
		off := 0
		for line := range slices.Chunk(b, 32) {
			if !bytes.Equal(line, make([]byte, len(line))) {
				text.WriteString(hex.EncodeToString([]byte{byte(off >> 16), byte(off >> 8), byte(off)}) + " " + hex.EncodeToString(line) + "\n")
			}
			off += len(line)
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := readGolden(t, path, len(b)); !bytes.Equal(want, b) {
		t.Errorf("%s differs: the format changed; see STYLE and FORMAT.md before -update", name)
	}
}

func readGolden(t testing.TB, path string, size int) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	for line := range strings.Lines(string(text)) {
		at, data, _ := strings.Cut(strings.TrimSpace(line), " ")
		off, err1 := hex.DecodeString(at)
		line, err2 := hex.DecodeString(data)
		if err1 != nil || err2 != nil || len(off) != 3 {
			t.Fatalf("%s: line %q", path, at)
		}
		copy(b[int(off[0])<<16|int(off[1])<<8|int(off[2]):], line)
	}
	return b
}
