package nbd

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Without this PROTOCOL.md would name tests that do not exist (any more).
func TestProtocolPageNamesRealTests(t *testing.T) {
	page, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(b)
	}
	named := regexp.MustCompile("`((Test|Fuzz)[A-Za-z0-9]+)(/[a-z_*]+)?`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 30 {
		t.Fatalf("the page names only %d tests", len(named))
	}
	for _, n := range named {
		if !strings.Contains(code.String(), "func "+n[1]+"(") {
			t.Errorf("no test %s", n[1])
		}
		row := strings.ReplaceAll(strings.Trim(n[3], "/*"), "_", " ")
		if row != "" && !strings.Contains(code.String(), `{"`+row) {
			t.Errorf("no row %q of %s", row, n[1])
		}
	}
	golden, err := filepath.Glob("testdata/golden_*.txt")
	if err != nil || len(golden) != 4 {
		t.Errorf("golden files: %v, %v", golden, err)
	}
}
