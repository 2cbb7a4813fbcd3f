package layers

import (
	"bytes"
	"go/ast"
	"go/format"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Without this diffs would be about spaces.
func TestGofmt(t *testing.T) {
	for _, f := range theTree(t).files {
		out, err := format.Source(f.text)
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
		} else if !bytes.Equal(out, f.text) {
			t.Errorf("%s: not formatted; run gofmt -w on it", f.path)
		}
	}
}

// Without this a room's promise would stand nowhere, or in two places that disagree.
func TestOnePackageComment(t *testing.T) { checkPackageComments(t, theTree(t)) }

func checkPackageComments(t reporter, tr *tree) {
	comments := make(map[string][]string)
	for _, f := range tr.files {
		if f.test && !f.testkit {
			continue
		}
		if _, ok := comments[f.dir]; !ok {
			comments[f.dir] = nil
		}
		if f.ast.Doc != nil && !f.generated {
			comments[f.dir] = append(comments[f.dir], f.path)
		}
	}
	for dir, at := range comments {
		switch {
		case len(at) == 0:
			t.Errorf("%s has no package comment: say what it is, what it is not, who owns it, what may be called at once", dir)
		case len(at) > 1:
			t.Errorf("%s has package comments in %s: keep one", dir, strings.Join(at, " and "))
		}
	}
}

// Without this nobody could use a name without reading its body.
func TestExportedNamesAreDocumented(t *testing.T) {
	tr := theTree(t)
	for _, f := range tr.files {
		if f.test || f.generated || f.ast.Name.Name == "main" {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.IsExported() && d.Doc == nil {
					t.Errorf("%s: %s has no comment: write its contract", tr.at(d), d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					ts, ok := s.(*ast.TypeSpec)
					if ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil {
						t.Errorf("%s: %s has no comment: write its contract", tr.at(ts), ts.Name)
					}
				}
			}
		}
	}
}

// ban forbids functions of a package.
type ban struct {
	pkg     string
	names   []string // nil means all but those in allowed
	allowed []string
	except  []string // folders that may
	tests   bool     // whether test files are held to it too
	instead string
}

var timeReaders = []string{"Now", "Since", "Until"}
var timeWaiters = []string{"After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

var bans = []ban{
	{pkg: "time", names: []string{"Sleep"}, except: []string{"bench/perf"}, tests: true, instead: "wait for the condition, or use clock.Clock"},
	{pkg: "time", names: slices.Concat(timeReaders, timeWaiters), except: []string{"pkg/clock", "bench", "pkg/testkit"},
		instead: "take a clock.Clock, so that tests and simulation move time"},
	{pkg: "math/rand", tests: true, instead: "math/rand/v2 with a seed of your own"},
	{pkg: "math/rand/v2", allowed: []string{"New", "NewPCG", "NewChaCha8", "NewZipf", "Rand", "Source", "PCG", "ChaCha8", "Zipf"},
		instead: "take a *rand.Rand made from a logged seed"},
	{pkg: "math/rand/v2", allowed: []string{"New", "NewPCG", "NewChaCha8", "NewZipf", "Rand", "Source", "PCG", "ChaCha8", "Zipf", "Uint64"}, tests: true,
		instead: "draw one seed with rand.Uint64, log it, and take everything else from a *rand.Rand made of it"},
	{pkg: "fmt", names: []string{"Print", "Println", "Printf"}, except: []string{"bench"}, instead: "return it, log it, or write to the io.Writer given"},
	{pkg: "log", allowed: []string{"Logger"}, except: []string{"pkg/telemetry"}, tests: true, instead: "take a *slog.Logger"},
	{pkg: "os", names: []string{"Exit"}, except: []string{"pkg/lifecycle", "bench"}, instead: "return an error; main decides"},
	{pkg: "context", names: []string{"TO" + "DO"}, tests: true, instead: "take ctx as the first argument"},
	{pkg: "net/http", names: []string{"ListenAndServe", "HandleFunc", "Handle", "DefaultServeMux", "Get", "Post", "DefaultClient"}, except: []string{"bench"},
		instead: "an http.Server or http.Client of your own, with limits and timeouts"},
}

// exempts tells whether the file may. A main package talks to its terminal and sets its exit code.
func (b ban) exempts(f *source) bool {
	main := f.ast.Name.Name == "main" && (b.pkg == "fmt" || b.pkg == "os")
	return main || under(f.dir, b.except...)
}

func (b ban) covers(name string) bool {
	if b.names != nil {
		return slices.Contains(b.names, name)
	}
	return !slices.Contains(b.allowed, name)
}

// Without this a test would be slow or flaky, a daemon untestable in time, a failure unrepeatable.
func TestBannedCalls(t *testing.T) { checkCalls(t, theTree(t)) }

func checkCalls(t reporter, tr *tree) {
	for _, f := range tr.files {
		if f.generated {
			continue
		}
		imports := f.imports
		for _, b := range bans {
			name, ok := imports[b.pkg]
			if !ok || f.test && !b.tests || b.exempts(f) {
				continue
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == name && b.covers(sel.Sel.Name) {
					t.Errorf("%s: %s.%s: instead, %s", tr.at(sel), b.pkg, sel.Sel.Name, b.instead)
				}
				return true
			})
		}
	}
}

// bannedText is what no file says. The patterns are cut in two so as not to find
// themselves; a file without one of the words is not searched.
var bannedText = []struct {
	words   []string
	pattern *regexp.Regexp
	goOnly  bool
	instead string
}{
	{[]string{"/wor" + "k/", "/far" + "m/"}, regexp.MustCompile(`(^|[^a-zA-Z0-9_./-])/(wor` + `k|far` + `m)/`), false, "a path of one machine helps nobody; write it relative or as a placeholder"},
	{[]string{"../sha" + "red/", "/tmp/br" + "ief"}, regexp.MustCompile(`\.\./sha` + `red/|/tmp/br` + `ief`), false, "documents stand alone; say what it says"},
	{[]string{"PRIVATE " + "KEY"}, regexp.MustCompile(`BEGIN (RSA |EC |)PRIVATE ` + `KEY`), false, "a key in the tree is a key lost; make one in the test"},
	{[]string{"//no" + "lint"}, regexp.MustCompile(`//no` + `lint`), true, "//lint:ignore CHECK reason, on the line it is about"},
	{[]string{"FIX" + "ME", "XX" + "X"}, regexp.MustCompile(`\b(FIX` + `ME|XX` + `X)\b`), true, "mend it, or file an issue"},
	{[]string{"TO" + "DO"}, regexp.MustCompile(`\bTO` + `DO\b(?:[^(]|$|\([^)#]*\))`), true, "TO" + "DO(owner, #issue), or nothing"},
	{[]string{".Skip"}, regexp.MustCompile(`\.Skip(Now)?\(\)`), true, "a skipped test says what is missing"},
}

// Without this the tree would point at places only its authors can see, and at work nobody owns.
func TestBannedText(t *testing.T) {
	tr := theTree(t)
	for _, f := range tr.files {
		if !f.generated {
			checkText(t, f.path, f.text, true)
		}
	}
	for _, name := range tr.other {
		if path.Ext(name) == ".sum" {
			continue
		}
		text, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) < 1<<20 && !bytes.Contains(text[:min(len(text), 4096)], []byte{0}) {
			checkText(t, name, text, false)
		}
	}
}

func checkText(t reporter, name string, text []byte, isGo bool) {
	for _, b := range bannedText {
		if b.goOnly && !isGo || !slices.ContainsFunc(b.words, func(w string) bool { return bytes.Contains(text, []byte(w)) }) {
			continue
		}
		for i, line := range bytes.Split(text, []byte("\n")) {
			if b.pattern.Match(line) {
				t.Errorf("%s:%d: %q: %s", name, i+1, b.pattern.Find(line), b.instead)
			}
		}
	}
}

// Without this bytes on disk or wire could change without their page.
func TestGoldenFilesAreNamed(t *testing.T) {
	tr := theTree(t)
	var pages []string
	for _, name := range tr.other {
		if base := path.Base(name); base == "FORMAT.md" || base == "PROTOCOL.md" {
			pages = append(pages, name)
		}
	}
	for _, name := range tr.other {
		if !strings.Contains(name, "testdata/") || !strings.Contains(name, "golden") {
			continue
		}
		room := name[:strings.Index(name, "testdata/")]
		if !slices.ContainsFunc(pages, func(page string) bool {
			text, err := os.ReadFile("../../" + page)
			return err == nil && strings.HasPrefix(room, path.Dir(page)+"/") && bytes.Contains(text, []byte(path.Base(name)))
		}) {
			t.Errorf("%s is named in no FORMAT.md or PROTOCOL.md of its room", name)
		}
	}
}
