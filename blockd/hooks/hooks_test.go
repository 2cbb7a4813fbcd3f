package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// app is an application that can be frozen.
type app struct {
	mu     sync.Mutex
	frozen bool
	ran    []string
	fails  map[string]int // by step: how often it fails yet
	hangs  string         // the step that does not end
	after  func(step string)
}

func (a *app) run(ctx context.Context, argv []string, _ ...string) (string, error) {
	step := argv[0][1:]
	a.mu.Lock()
	a.ran = append(a.ran, step)
	if step == "freeze" {
		a.frozen = true // also where it fails half way
	}
	fails, hangs := a.fails[step] > 0, a.hangs == step
	if fails {
		a.fails[step]--
	} else if step == "thaw" {
		a.frozen = false
	}
	after := a.after
	a.mu.Unlock()
	if after != nil {
		after(step)
	}
	if hangs {
		<-ctx.Done()
		return "waiting", ctx.Err()
	}
	if fails {
		return "no luck", errors.New("exit status 1")
	}
	return "done", nil
}

func (a *app) steps() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprint(strings.Join(a.ran, " "), " ", a.frozen)
}

type world struct {
	*Runner
	t     *testing.T
	app   *app
	clock *clock.Manual
	dir   string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, app: &app{fails: map[string]int{}}, clock: clock.NewManual(), dir: filepath.Join(t.TempDir(), "frozen")}
	w.start()
	t.Cleanup(func() { _ = w.Close() }) // it may be closed already
	return w
}

// start is a life of the process; the one before may have ended without a word.
func (w *world) start() {
	w.t.Helper()
	r, err := Open(Options{Hooks: []Hook{{Name: "db", Freeze: []string{"/freeze"}, Thaw: []string{"/thaw"}}}, Dir: w.dir, Clock: w.clock, Log: telemetry.Discard(), Run: w.app.run})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Runner = r
}

// until moves time until the application is as it should be.
func (w *world) until(want string) {
	w.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for w.app.steps() != want {
		if time.Now().After(deadline) {
			w.t.Fatalf("it is %s, not %s", w.app.steps(), want)
		}
		w.clock.Advance(time.Second)
		_ = clock.System.Sleep(context.Background(), time.Millisecond)
	}
}

// left are the notes of what is frozen.
func (w *world) left() (names []string) {
	all, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range all {
		names = append(names, f.Name())
	}
	return names
}

func (w *world) freeze(x byte) error {
	return w.Freeze(context.Background(), ID{x}, "db", 10*time.Second)
}

func (w *world) thaw(x byte) (bool, error) { return w.Thaw(context.Background(), ID{x}, "db") }

// Without this a snapshot could count as consistent though the application went on before it was taken, or be said not to.
func TestThawTellsWhetherTheFreezeStood(t *testing.T) {
	w := newWorld(t)
	for range 2 { // the order may come again
		if err := w.freeze(1); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.freeze(2); !errors.Is(err, errs.ErrConflict) {
		t.Errorf("two at once: %v", err)
	}
	if held, err := w.thaw(2); held || err != nil {
		t.Errorf("another's freeze: %v %v", held, err)
	}
	for range 2 {
		if held, err := w.thaw(1); !held || err != nil {
			t.Errorf("%v %v", held, err)
		}
	}
	if err := w.freeze(1); !errors.Is(err, ErrEnded) || !errors.Is(err, errs.ErrConflict) { // an order that was late
		t.Errorf("frozen again after its end: %v", err)
	}
	if w.app.steps() != "freeze thaw false" || len(w.left()) != 0 {
		t.Errorf("%s, %v", w.app.steps(), w.left())
	}
	if err := w.freeze(3); err != nil {
		t.Error(err)
	}
	w.until("freeze thaw freeze thaw false") // nobody thaws it: its time is up
	if held, err := w.thaw(3); held || err != nil {
		t.Errorf("it thawed by itself: %v %v", held, err)
	}
	if err := w.Freeze(context.Background(), ID{9}, "other", time.Second); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("no such hook: %v", err)
	}
	if err := w.Freeze(context.Background(), ID{9}, "db", TimeoutMax+1); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("for ever: %v", err)
	}
}

// Without this an application would stay frozen when the daemon dies in between, or ends, or dies while the command runs.
func TestNextLifeThawsWhatWasLeftFrozen(t *testing.T) {
	w := newWorld(t)
	if err := w.freeze(1); err != nil {
		t.Fatal(err)
	}
	dead := w.Runner
	dead.hooks["db"].disarm() // what a SIGKILL does: nothing of it runs any more
	w.start()
	w.until("freeze thaw false")
	if held, err := w.thaw(1); held || err != nil {
		t.Errorf("nobody knows whether it stood: %v %v", held, err)
	}
	if len(w.left()) != 0 {
		t.Error(w.left())
	}
	_ = dead.Close()

	var noted []string // when the command runs it is noted already: a death in the middle of it is thawed, too
	w.app.after = func(step string) {
		if step == "freeze" {
			noted = w.left()
		}
	}
	if err := w.freeze(2); err != nil || !slices.Equal(noted, []string{"db"}) {
		t.Errorf("%v, noted %v", err, noted)
	}
	if err := w.Close(); err != nil { // in order
		t.Error(err)
	}
	if w.app.steps() != "freeze thaw freeze thaw false" || len(w.left()) != 0 {
		t.Errorf("%s %v", w.app.steps(), w.left())
	}
	if err := w.freeze(3); !errors.Is(err, errs.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// Without this a command that fails half way, or hangs, would leave the application as it is then.
func TestFreezeThatFailsIsThawed(t *testing.T) {
	w := newWorld(t)
	w.app.fails["freeze"] = 1
	if err := w.freeze(1); err == nil || !strings.Contains(err.Error(), "freeze db: no luck") {
		t.Errorf("%v", err)
	}
	if w.app.steps() != "freeze thaw false" || len(w.left()) != 0 {
		t.Errorf("%s %v", w.app.steps(), w.left())
	}
	w.app.hangs = "freeze"
	failed := make(chan error, 1)
	go func() { failed <- w.freeze(2) }()
	w.until("freeze thaw freeze thaw false")
	if err := <-failed; !errors.Is(err, errs.ErrTimeout) || !strings.Contains(err.Error(), "waiting: did not end within 10s") {
		t.Errorf("%v", err)
	}
	w.app.hangs = ""
	if err := w.freeze(3); err != nil { // it is as before
		t.Error(err)
	}
}

// Without this one failure to thaw would leave the application frozen.
func TestThawIsTriedUntilItIsDone(t *testing.T) {
	w := newWorld(t)
	if err := w.freeze(1); err != nil {
		t.Fatal(err)
	}
	w.app.mu.Lock()
	w.app.fails["thaw"] = 3
	w.app.mu.Unlock()
	if held, err := w.thaw(1); !held || err == nil {
		t.Errorf("%v %v", held, err)
	}
	if !slices.Equal(w.left(), []string{"db"}) {
		t.Error("the next life would not know of it")
	}
	w.until("freeze thaw thaw thaw thaw false")
}

// Without this a hook could be run by a shell, or two be meant by one name.
func TestHooksAreProgramsByTheirPaths(t *testing.T) {
	good := Hook{Name: "db", Freeze: []string{"/bin/true"}, Thaw: []string{"/bin/true"}}
	if err := Validate([]Hook{good}); err != nil {
		t.Error(err)
	}
	for _, bad := range [][]Hook{{good, good}, {{Name: "../x", Freeze: good.Freeze, Thaw: good.Thaw}}, {{Name: "db", Freeze: []string{"true"}, Thaw: good.Thaw}}, {{Name: "db", Freeze: good.Freeze}}} {
		if err := Validate(bad); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	last, err := run(context.Background(), []string{"/bin/sh", "-c", "echo first; printf 'the \\033[1mlast\\n' >&2; exit 3"})
	if err == nil || last != "the [1mlast" || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%q %v", last, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := run(ctx, []string{"/bin/sleep", "1000"}); !errors.Is(err, context.Canceled) {
		t.Errorf("told to end: %v", err)
	}
	if last, err := run(context.Background(), []string{"/bin/sh", "-c", "echo $ASHLAR_HOOK"}, "ASHLAR_HOOK=db"); err != nil || last != "db" {
		t.Errorf("%q %v", last, err)
	}
}
