package layers

import (
	"go/ast"
	"strings"
	"testing"
)

// Without this nobody would know what a test that is red, or in the way, was for.
func TestTestsSayWhatTheyProve(t *testing.T) { checkTestComments(t, theTree(t)) }

func checkTestComments(t reporter, tr *tree) {
	for _, f := range tr.files {
		if !f.test || f.testkit {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && isTest(fn) && fn.Doc == nil {
				t.Errorf("%s: %s has no comment: say in its first lines what would break without it", tr.at(fn), fn.Name)
			}
		}
	}
}

func isTest(fn *ast.FuncDecl) bool {
	return fn.Recv == nil && fn.Name.Name != "TestMain" && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz"))
}

// unfuzzed are decoders that others do the work of, or that are fuzzed elsewhere; each with the reason.
var unfuzzed = map[string]string{
	"pkg/codec.Decode":          "runs the decoder that it is given; every fuzzer of a decoder passes here",
	"pkg/segment.DecodeEntries": "FuzzDecodeHead reaches it: a head is mostly entries",
	"pkg/devcluster.ParseS3":    "a flag of the developer who starts the cluster; ParsePlace reads places of others",
}

// Without this a decoder of bytes that anybody may have written could come without a fuzzer. The rule knows exported
// functions called Decode… or Parse…; a fuzzer of the same folder has to name each.
func TestDecodersAreFuzzed(t *testing.T) { checkDecoders(t, theTree(t)) }

func checkDecoders(t reporter, tr *tree) {
	named := make(map[string]bool) // folder and name that a fuzzer there has
	for _, f := range tr.files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				ast.Inspect(fn, func(n ast.Node) bool {
					if x, ok := n.(*ast.Ident); ok {
						named[f.dir+"."+x.Name] = true
					}
					return true
				})
			}
		}
	}
	for _, f := range tr.files {
		if f.test || f.generated || f.ast.Name.Name == "main" || strings.HasPrefix(f.dir, "bench/") {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Decode") && !strings.HasPrefix(fn.Name.Name, "Parse") {
				continue
			}
			if key := f.dir + "." + fn.Name.Name; !named[key] && unfuzzed[key] == "" {
				t.Errorf("%s: no fuzzer of %s names %s: bytes and texts of others may be anything", tr.at(fn), f.dir, fn.Name)
			}
		}
	}
}
