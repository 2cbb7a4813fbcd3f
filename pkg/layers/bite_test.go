package layers

import (
	"fmt"
	"go/token"
	"strings"
	"testing"
)

// found collects what a check complains of.
type found []string

func (f *found) Errorf(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// Without this a rule could be broken, or match nothing, and nobody would know.
func TestRulesBite(t *testing.T) {
	const doc = "// Package x is.\n"
	for _, tc := range []struct{ path, text, want string }{
		{"pkg/x/a.go", doc + `package x; import _ "ashlar.dev/blockd/chunk"`, "pkg is what the daemons share"},
		{"blockd/x/a_test.go", `package x; import _ "ashlar.dev/metad/state"`, "daemons meet in pkg/api"},
		{"blockd/chunk/a.go", doc + `package x; import _ "ashlar.dev/blockd/volume/core"`, "a store knows no volumes"},
		{"metad/server/a.go", doc + `package x; import _ "github.com/hashicorp/raft"`, "one room knows Raft"},
		{"pkg/x/a.go", doc + `package x; import _ "testing"`, "what ships holds no test code"},
		{"pkg/x/a.go", doc + `package x; import _ "ashlar.dev/pkg/nbd/nbdtest"`, "imported by tests only"},
		{"pkg/x/a.go", doc + `package x; import _ "ashlar.dev/bench/sim"`, "bench stands on everything"},
		{"metad/state/a.go", doc + `package x; import _ "ashlar.dev/metad/server"`, "only its main.go and bench start one"},
		{"metad/main.go", doc + "package main\n" + strings.Repeat("\n", 60), "at most 60"},
		{"pkg/blockmap/a.go", doc + `package x; import _ "os"`, "does I/O"},
		{"pkg/blockmap/a.go", doc + `package x; import _ "ashlar.dev/pkg/clock"`, "stands on pure rooms only"},
		{"metad/state/a.go", doc + `package x; func f() { go f() }`, "starts no goroutine"},
		{"metad/state/a.go", doc + `package x; func f() { select {} }`, "waits for nothing"},
		{"metad/state/a.go", doc + `package x; import t "time"; var x = t.Now`, "reads no clock"},
		{"blockd/volume/core/a.go", doc + `package x; import _ "log/slog"`, "logs"},
		{"pkg/x/a.go", `package x`, "no package comment"},
		{"pkg/x/a_test.go", `package x; import "time"; func f() { time.Sleep(1) }`, "wait for the condition"},
		{"pkg/x/a.go", doc + `package x; import "time"; var x = time.Now()`, "take a clock.Clock"},
		{"pkg/x/a_test.go", `package x; import "math/rand/v2"; var x = rand.IntN(3)`, "draw one seed"},
		{"pkg/x/a.go", doc + `package x; import "math/rand/v2"; var x = rand.Uint64()`, "made from a logged seed"},
		{"pkg/x/a.go", doc + `package x; import "fmt"; func f() { fmt.Println() }`, "return it, log it"},
		{"pkg/x/a.go", doc + `package x; import "os"; func f() { os.Exit(1) }`, "main decides"},
		{"pkg/x/a.go", doc + "package x // see /wor" + "k/main/x", "a path of one machine"},
		{"pkg/x/a.go", doc + "package x // TO" + "DO: later", "TO" + "DO(owner, #issue)"},
		{"pkg/x/a.go", doc + "package x //no" + "lint:all", "lint:ignore CHECK"},
		{"pkg/x/a_test.go", "package x; func f() { t.Skip" + "() }", "says what is missing"},
		{"pkg/x/a_test.go", `package x; func TestX() {}`, "what would break without it"},
		{"pkg/x/a.go", doc + `package x; func ParseX() {}`, "no fuzzer of pkg/x names ParseX"},
	} {
		if got := complaints(t, tc.path, tc.text); !strings.Contains(strings.Join(got, "\n"), tc.want) {
			t.Errorf("%s: %q: want a complaint with %q, got %q", tc.path, tc.text, tc.want, got)
		}
	}
	for _, fine := range []struct{ path, text string }{
		{"blockd/main.go", doc + `package main; import ("os"; "fmt"; _ "ashlar.dev/blockd/server"); func main() { fmt.Println(); os.Exit(1) }`},
		{"pkg/blockmap/a.go", doc + `package x; import ("time"; "math/rand/v2"; _ "ashlar.dev/pkg/id"); var d time.Duration; var r *rand.Rand`},
		{"pkg/x/a_test.go", `package x; import ("math/rand/v2"; _ "testing"; _ "ashlar.dev/pkg/nbd/nbdtest"); var s = rand.Uint64()`},
		{"pkg/nbd/nbdtest/a.go", doc + `package nbdtest; import _ "testing"`},
		{"pkg/x/a.go", doc + "package x // TO" + "DO(ann, #7): later"},
		{"bench/x/a.go", doc + `package x; import ("time"; _ "ashlar.dev/metad/server"); var x = time.Now()`},
	} {
		if got := complaints(t, fine.path, fine.text); len(got) > 0 {
			t.Errorf("%s: %q: %q", fine.path, fine.text, got)
		}
	}
}

func complaints(t *testing.T, path, text string) []string {
	t.Helper()
	tr := &tree{fset: token.NewFileSet()}
	if err := tr.addText(path, []byte(text)); err != nil {
		t.Fatal(err)
	}
	var f found
	checkImports(&f, tr)
	checkServers(&f, tr)
	checkPure(&f, tr)
	checkPackageComments(&f, tr)
	checkCalls(&f, tr)
	checkTestComments(&f, tr)
	checkDecoders(&f, tr)
	checkText(&f, path, []byte(text), true)
	return f
}
