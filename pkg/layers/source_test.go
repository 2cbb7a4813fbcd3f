package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "ashlar.dev"

// source is one Go file of the tree.
type source struct {
	path      string // from the module root, with slashes
	dir       string
	text      []byte
	ast       *ast.File
	test      bool // a test file, or a helper of tests
	testkit   bool // a helper of tests that other packages import
	generated bool
	imports   map[string]string // import path → local name
}

var versionSuffix = regexp.MustCompile(`^v\d+$`)

func importsOf(f *ast.File) map[string]string {
	out := make(map[string]string)
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser would have refused it
		}
		name := path[strings.LastIndexByte(path, '/')+1:]
		if versionSuffix.MatchString(name) {
			name = filepath.Base(filepath.Dir(path))
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		out[path] = name
	}
	return out
}

// reporter is the part of *testing.T that a check needs.
type reporter interface {
	Errorf(format string, args ...any)
}

// tree is everything that is checked: the Go files, parsed, and the names of all others.
type tree struct {
	fset  *token.FileSet
	files []*source
	other []string
}

// skipped folders are not ours to check: other modules, outputs, and the parking place
// of requirements that no package imports yet.
var skipped = map[string]bool{".git": true, "bin": true, "tools": true, "node_modules": true}

var loadTree = sync.OnceValues(func() (*tree, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	t := &tree{fset: token.NewFileSet()}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if skipped[d.Name()] || strings.HasSuffix(rel, "testdata/fuzz") || strings.HasSuffix(rel, "testdata/rapid") {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			t.other = append(t.other, rel)
			return nil
		}
		return t.add(path, rel)
	})
	return t, err
})

var generatedMark = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

func (t *tree) add(path, rel string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return t.addText(rel, text)
}

func (t *tree) addText(rel string, text []byte) error {
	f, err := parser.ParseFile(t.fset, rel, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	t.files = append(t.files, &source{
		path: rel, dir: filepath.ToSlash(filepath.Dir(rel)), text: text, ast: f,
		// A folder named like nbdtest or storetest holds helpers of tests, as net/http/httptest does.
		test:      strings.HasSuffix(rel, "_test.go") || strings.HasSuffix(filepath.Dir(rel), "test"),
		testkit:   !strings.HasSuffix(rel, "_test.go") && strings.HasSuffix(filepath.Dir(rel), "test"),
		generated: generatedMark.Match(text), imports: importsOf(f),
	})
	return nil
}

func theTree(t *testing.T) *tree {
	t.Helper()
	tr, err := loadTree()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// under tells whether a folder or import path is one of these or lies below one.
func under(path string, places ...string) bool {
	for _, p := range places {
		if p == "." || path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

func (t *tree) at(n ast.Node) string { return t.fset.Position(n.Pos()).String() }
