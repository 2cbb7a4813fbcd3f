package layers

import (
	"bufio"
	"flag"
	"fmt"
	"go/ast"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A function fits on a screen, a file is one idea.
const (
	functionLinesMax = 70
	fileLinesMax     = 1000
	exceptionsFile   = "exceptions.txt"
)

var update = flag.Bool("update", false, "lower and drop entries of exceptions.txt; it never adds one")

// Without this functions would grow a line at a time until nobody reads them.
func TestLengthRatchet(t *testing.T) {
	actual := measure(theTree(t))
	listed, head := readExceptions(t)
	for _, key := range slices.Sorted(maps.Keys(actual)) {
		switch was, ok := listed[key]; {
		case !ok:
			t.Errorf("%s has %d lines: cut it along its ideas (at most %d for a function, %d for a file)", key, actual[key], functionLinesMax, fileLinesMax)
		case actual[key] > was:
			t.Errorf("%s grew from %d to %d lines: listed ones may only shrink", key, was, actual[key])
		}
	}
	var out strings.Builder
	out.WriteString(head)
	stale := false
	for _, key := range slices.Sorted(maps.Keys(listed)) {
		now, still := actual[key]
		stale = stale || !still || now < listed[key]
		if still {
			fmt.Fprintf(&out, "%s %d\n", key, min(now, listed[key]))
		}
	}
	if !stale {
		return
	}
	if *update {
		if err := os.WriteFile(exceptionsFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("something listed in %s got shorter: well done; run go test ./pkg/layers -update", exceptionsFile)
}

// measure lists what is too long, as "func PATH NAME" or "file PATH".
func measure(tr *tree) map[string]int {
	out := make(map[string]int)
	for _, f := range tr.files {
		if f.generated {
			continue
		}
		if n := strings.Count(string(f.text), "\n"); n > fileLinesMax {
			out["file "+f.path] = n
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := tr.fset.Position(fn.End()).Line - tr.fset.Position(fn.Pos()).Line + 1; n > functionLinesMax {
				out["func "+f.path+" "+nameOf(fn)] = n
			}
		}
	}
	return out
}

func nameOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	t := fn.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.Name + "." + fn.Name.Name
		default:
			return fn.Name.Name
		}
	}
}

func readExceptions(t *testing.T) (listed map[string]int, head string) {
	f, err := os.Open(exceptionsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	listed = make(map[string]int)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			head += line + "\n"
			continue
		}
		cut := strings.LastIndexByte(line, ' ')
		n, err := strconv.Atoi(line[cut+1:])
		if err != nil {
			t.Fatalf("%s: %q: want a number of lines at the end", exceptionsFile, line)
		}
		listed[line[:cut]] = n
	}
	return listed, head
}
