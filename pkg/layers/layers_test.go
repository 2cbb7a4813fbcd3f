package layers

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

var daemons = []string{"metad", "blockd", "snapshotd", "computed"}

// row forbids imports. Paths without a dot in their first part are folders of this tree
// or packages of the standard library; all match what lies below them too.
type row struct {
	from   []string // folders the rule is about; "." is all
	except []string // folders under them that may
	to     []string // what they must not import
	tests  bool     // whether test files are held to it too
	reason string
}

var rows = []row{
	{from: []string{"pkg"}, to: daemons, tests: true,
		reason: "pkg is what the daemons share; what knows a daemon belongs into it"},
	{from: []string{"metad"}, to: []string{"blockd", "snapshotd", "computed"}, tests: true,
		reason: "daemons meet in pkg/api through pkg/client, never in code"},
	{from: []string{"blockd"}, to: []string{"metad", "snapshotd", "computed"}, tests: true,
		reason: "daemons meet in pkg/api through pkg/client, never in code"},
	{from: []string{"snapshotd"}, to: []string{"metad", "blockd", "computed"}, tests: true,
		reason: "daemons meet in pkg/api through pkg/client, never in code"},
	{from: []string{"computed"}, to: []string{"metad", "blockd", "snapshotd"}, tests: true,
		reason: "daemons meet in pkg/api through pkg/client, never in code"},
	{from: []string{"."}, except: []string{"bench"}, to: []string{"bench"}, tests: true,
		reason: "bench stands on everything and carries nothing"},
	{from: []string{"blockd/chunk"},
		to:     []string{"blockd/volume", "blockd/export", "blockd/journal", "blockd/packer", "pkg/blockmap", "pkg/record", "pkg/nbd"},
		reason: "a store knows no volumes beyond the key of a stream, or it could not outlive the engine's next format"},
	{from: []string{"pkg/blockmap", "pkg/segment", "pkg/stripe", "blockd/journal", "blockd/volume"}, to: []string{"blockd/chunk"},
		reason: "the engine speaks to stores through pkg/storeproto, wherever they run"},
	{from: []string{"pkg/cli", "metad/gateway", "metad/console", "deploy/csi"},
		to:     []string{"github.com/hashicorp/raft", "github.com/cockroachdb/pebble", "metad/state", "metad/consensus"},
		reason: "they are plain clients of the API, so that whatever they can do, anybody's program can"},
	{from: []string{"."}, except: []string{"metad/consensus", "bench"}, to: []string{"github.com/hashicorp/raft"},
		reason: "one room knows Raft; the rest proposes commands and reads state"},
	{from: []string{"."}, except: []string{"computed/hypervisor/libvirt"}, to: []string{"libvirt.org/go/libvirt"},
		reason: "libvirt needs cgo and a daemon; one room knows it"},
	{from: []string{"."}, except: []string{"pkg/cli", "bench"}, to: []string{"github.com/alecthomas/kong"},
		reason: "daemons have one flag and a config file; only the CLI has a command tree"},
	{from: []string{"."}, except: []string{"pkg/stripe", "bench"}, to: []string{"github.com/klauspost/reedsolomon"},
		reason: "one room decides how bytes are coded, or a decode could mix two ways"},
	{from: []string{"."}, except: []string{"pkg/objectstore", "bench"}, to: []string{"github.com/minio/minio-go"},
		reason: "one room knows S3; the rest keeps objects under keys, wherever that is"},
	{from: []string{"."}, except: []string{"pkg/archive", "bench"}, to: []string{"github.com/klauspost/compress"},
		reason: "one room decides how archived bytes are compressed, or its format would be everybody's"},
	{from: []string{"pkg/archive/restore"}, to: []string{"pkg"},
		reason: "it shows that the archive can be read without this tree"},
	{from: []string{"."}, except: []string{"bench", "pkg/testkit"},
		to: []string{"testing", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/anishathalye/porcupine",
			"github.com/cockroachdb/pebble/v2/vfs/errorfs"},
		reason: "what ships holds no test code"},
}

// Without this the rooms would grow into each other until none can be changed alone.
func TestImportTable(t *testing.T) { checkImports(t, theTree(t)) }

func checkImports(t reporter, tr *tree) {
	for _, f := range tr.files {
		for path := range f.imports {
			target, ours := strings.CutPrefix(path, module+"/")
			if ours && !f.test && strings.HasSuffix(target, "test") && !under(f.dir, "bench") {
				t.Errorf("%s imports %s: helpers of tests are imported by tests only", f.path, path)
			}
			for _, r := range rows {
				if f.test && !r.tests || !under(f.dir, r.from...) || under(f.dir, r.except...) {
					continue
				}
				if hits(target, ours, r.to) {
					t.Errorf("%s imports %s: %s", f.path, path, r.reason)
				}
			}
		}
	}
}

// hits compares like with like: a folder of ours never matches a foreign path.
func hits(target string, ours bool, forbidden []string) bool {
	for _, f := range forbidden {
		foreign := strings.Contains(strings.SplitN(f, "/", 2)[0], ".") || f == "testing"
		if foreign != ours && under(target, f) {
			return true
		}
	}
	return false
}

// Without this a server package would become a library, and main more than flags.
func TestOnlyMainImportsAServer(t *testing.T) { checkServers(t, theTree(t)) }

func checkServers(t reporter, tr *tree) {
	for _, f := range tr.files {
		for path := range f.imports {
			target, ours := strings.CutPrefix(path, module+"/")
			daemon, room, _ := strings.Cut(target, "/")
			if !ours || room != "server" || !slices.Contains(daemons, daemon) {
				continue
			}
			if f.dir != daemon && f.dir != target && !under(f.dir, "bench") {
				t.Errorf("%s imports %s: a server wires a daemon together; only its main.go and bench start one", f.path, path)
			}
		}
		if f.ast.Name.Name == "main" && strings.HasSuffix(f.path, "/main.go") && slices.Contains(daemons, f.dir) {
			if n := strings.Count(string(f.text), "\n"); n > 60 {
				t.Errorf("%s has %d lines: main is flags → Config → server.Run, at most 60", f.path, n)
			}
		}
	}
}

// pureRooms decide and never act: what they do must repeat exactly from their input, so
// that a simulator can drive them by seed. A room that does not exist yet may stand here.
var pureRooms = []string{
	"pkg/block", "pkg/errs", "pkg/codec", "pkg/record", "pkg/blockmap", "pkg/segment", "pkg/stripe", "pkg/cluster", "pkg/lineage",
	"pkg/storeproto/core", "metad/state", "metad/placement", "metad/policy", "blockd/journal", "blockd/chunk/core",
	"blockd/volume/core", "blockd/packer/core", "blockd/cleaner/core", "blockd/repair/core", "blockd/throttle/core", "blockd/chunk/share",
	"snapshotd/retention", "computed/instance",
}

// pureFriends may be imported by pure rooms though they are not wholly pure themselves.
var pureFriends = map[string]string{
	"pkg/id":         "ids are values; New, which draws random bits, is called by shells",
	"pkg/buf":        "buffers are memory",
	"pkg/storeproto": "message types of the engine-store seam",
	"pkg/config":     "sizes and spans",
}

// impure are what no pure room may import.
var impure = map[string]string{
	"os": "does I/O", "net": "does I/O", "io/fs": "does I/O", "syscall": "does I/O", "golang.org/x/sys": "does I/O",
	"log": "logs: return what happened, the shell logs it", "crypto/rand": "is not repeatable: take a seed",
	"math/rand": "has a global source: use math/rand/v2 with a seed", "context": "waits: a step has no context",
	"github.com/prometheus": "counts: return what happened, the shell counts it", "golang.org/x/sync": "starts goroutines",
}

// impureTime are the functions of package time that read or wait; its types are welcome.
var impureTime = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTicker", "NewTimer"}

// Without this the simulator's same seed would not give the same trace.
func TestPureRoomsStayPure(t *testing.T) { checkPure(t, theTree(t)) }

func checkPure(t reporter, tr *tree) {
	for _, f := range tr.files {
		if f.test || !under(f.dir, pureRooms...) {
			continue
		}
		for path := range f.imports {
			checkPureImport(t, f, path)
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a pure room starts no goroutine: return an effect, the shell carries it out", tr.at(n))
			case *ast.SelectStmt:
				t.Errorf("%s: a pure room waits for nothing: take an event instead", tr.at(n))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == f.imports["time"] && slices.Contains(impureTime, n.Sel.Name) {
					t.Errorf("%s: a pure room reads no clock: take the time as an argument", tr.at(n))
				}
			}
			return true
		})
	}
}

func checkPureImport(t reporter, f *source, path string) {
	if target, ours := strings.CutPrefix(path, module+"/"); ours {
		if _, friend := pureFriends[target]; !friend && !under(target, pureRooms...) {
			t.Errorf("%s imports %s: a pure room stands on pure rooms only (table pureRooms in pkg/layers)", f.path, path)
		}
		return
	}
	for bad, why := range impure {
		if under(path, bad) && !strings.HasPrefix(path, "math/rand/v2") {
			t.Errorf("%s imports %s, which %s; a pure room decides, its shell acts", f.path, path, why)
		}
	}
}
