package devcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
	"go.uber.org/goleak"
)

// The test binary is also the daemons: started as "metad" or "blockd" it is a fake one.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "metad", "blockd":
		os.Exit(fakeDaemon(os.Args[2]))
	case "ashlar":
		os.Exit(fakeAshlar(os.Args[1], os.Args[2]))
	}
	// The race detector lets every process linger a second at its end; the fakes need not.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	goleak.VerifyTestMain(m)
}

// fakeDaemon does what the file mode in its data folder says: serve until SIGTERM, "die"
// at once, or be "deaf" to SIGTERM.
func fakeDaemon(configFile string) int {
	var c struct {
		Data string `yaml:"data"`
	}
	text, err := os.ReadFile(configFile)
	if err != nil {
		return 1
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "data: "); ok {
			c.Data = strings.TrimSpace(v)
		}
	}
	mode, _ := os.ReadFile(filepath.Join(c.Data, "mode"))
	fmt.Println("fake daemon starts", c.Data, string(mode))
	if string(mode) == "die" {
		fmt.Fprintln(os.Stderr, "cannot go on: told to die")
		return 3
	}
	drains := make(chan os.Signal, 1)
	signal.Notify(drains, syscall.SIGUSR1)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-drains
		_ = os.WriteFile(filepath.Join(c.Data, "drained"), nil, 0o600) // its absence is what a test sees
	}()
	if err := os.WriteFile(filepath.Join(c.Data, "up"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return 1
	}
	for {
		<-signals
		if string(mode) != "deaf" {
			break
		}
	}
	return exitWith(os.WriteFile(filepath.Join(c.Data, "graceful"), nil, 0o600))
}

func exitWith(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

// fakeAshlar is an ashlar dev that can be killed.
func fakeAshlar(dir, bin string) int {
	return exitWith(Run(context.Background(), Options{Dir: dir, BinDir: bin, Clock: clock.System, Out: os.Stdout, serves: allUp(dir),
		owned: func(context.Context) (int, error) { return 0, nil }}))
}

// allUp takes the fake daemons' word for it.
func allUp(dir string) func(context.Context) (string, bool) {
	return func(context.Context) (string, bool) {
		f, err := LoadFile(dir)
		if err != nil {
			return "", false
		}
		for _, id := range ids(f) {
			if _, err := os.Stat(filepath.Join(dir, "data", id, "up")); err != nil {
				return id + " is not up", false
			}
		}
		return "all fakes are up", true
	}
}

func ids(f *File) (out []string) {
	for _, m := range f.Dev.Metads {
		out = append(out, m.ID)
	}
	for _, b := range f.Dev.Blockds {
		out = append(out, b.ID)
	}
	return out
}

// bench is one ashlar dev under test.
type bench struct {
	t     *testing.T
	o     Options
	lines chan string
	done  chan error
	stop  context.CancelFunc
	all   []string
}

func fakeBinaries(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"metad", "blockd", "ashlar"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

func newBench(t *testing.T, o Options) *bench {
	o.BinDir = fakeBinaries(t)
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "d")
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.serves == nil {
		o.serves = allUp(o.Dir)
	}
	if o.owned == nil {
		o.owned = func(context.Context) (int, error) { return 0, nil }
	}
	return &bench{t: t, o: o}
}

func (b *bench) start() {
	pr, pw := io.Pipe()
	b.lines, b.done = make(chan string, 1000), make(chan error, 1)
	b.o.Out = pw
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() {
		defer close(b.lines)
		for s := bufio.NewScanner(pr); s.Scan(); {
			b.lines <- s.Text()
		}
	}()
	go func() {
		err := Run(ctx, b.o)
		pw.Close()
		b.done <- err
	}()
	b.t.Cleanup(cancel)
}

// await reads lines until one begins with or contains what is wanted.
func (b *bench) await(want string) string {
	b.t.Helper()
	for line := range b.lines {
		b.all = append(b.all, line)
		if strings.Contains(line, want) {
			return line
		}
	}
	b.t.Fatalf("no line with %q in:\n%s\nended with %v", want, strings.Join(b.all, "\n"), <-b.done)
	return ""
}

// awaitReady moves time until the cluster is ready.
func (b *bench) awaitReady(m *clock.Manual) {
	b.t.Helper()
	until(b.t, "the cluster is ready", func() bool {
		m.Advance(readyPoll)
		select {
		case line := <-b.lines:
			b.all = append(b.all, line)
			return strings.HasPrefix(line, "ready")
		default:
			return false
		}
	})
}

func (b *bench) end() error {
	b.stop()
	for line := range b.lines {
		b.all = append(b.all, line)
	}
	return <-b.done
}

func (b *bench) pid(id string) int {
	b.t.Helper()
	var text []byte
	until(b.t, "the file with the pid of "+id, func() (there bool) { // it is written after the start
		var err error
		text, err = os.ReadFile(filepath.Join(b.o.Dir, "run", id+".pid"))
		return err == nil
	})
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *bench) data(id, name string) string { return filepath.Join(b.o.Dir, "data", id, name) }

func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}

// until polls for what another process does; there is nothing else to wait on.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for !ok() {
		if clock.System.Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Without this scripts could not find the cluster again, or its data would hang on one run.
func TestSecondRunFindsEverything(t *testing.T) {
	b := newBench(t, Options{})
	b.start()
	if line := b.await("ready"); !strings.HasPrefix(line, "ready") {
		t.Errorf("line does not begin with ready: %q", line)
	}
	first, err := os.ReadFile(filepath.Join(b.o.Dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	f, err := LoadFile(b.o.Dir)
	if err != nil || len(f.Dev.Metads) != 3 || len(f.Dev.Blockds) != 3 || f.Dev.Blockds[0].Stores != 2 {
		t.Fatalf("plan %+v, %v", f, err)
	}
	for _, id := range ids(f) {
		if b.pid(id) <= 0 {
			t.Errorf("no pid of %s", id)
		}
	}
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids(f) {
		if _, err := os.Stat(b.data(id, "graceful")); err != nil {
			t.Errorf("%s was not asked to end: %v", id, err)
		}
		if _, err := os.Stat(filepath.Join(b.o.Dir, "run", id+".pid")); err == nil {
			t.Errorf("pid file of %s is left", id)
		}
	}
	b.start()
	b.await("ready")
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(filepath.Join(b.o.Dir, FileName)); err != nil || string(again) != string(first) {
		t.Errorf("cluster.yaml changed: %v", err)
	}
	b.o.Blockds = 5
	b.start()
	if err := b.end(); !errors.Is(err, errs.ErrInvalid) || !strings.Contains(err.Error(), "--blockd 5") {
		t.Errorf("another shape: %v", err)
	}
}

// Without this one crash would leave a cluster a daemon short, or a crashing one would spin.
func TestDeadDaemonComesBackAfterASecond(t *testing.T) {
	m := clock.NewManual()
	b := newBench(t, Options{Metads: 1, Blockds: 1, Clock: m})
	b.start()
	up := b.data("b1", "up")
	b.awaitReady(m)
	for i, wait := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		if i == 1 { // from here on it dies by itself
			if err := os.WriteFile(b.data("b1", "mode"), []byte("die"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if i < 2 {
			os.Remove(up)
			if err := syscall.Kill(b.pid("b1"), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		b.await("b1 died (")
		if got := b.all[len(b.all)-1]; !strings.Contains(got, "again in "+wait.String()) {
			t.Errorf("death %d: %q, want a wait of %s", i+1, got, wait)
		}
		// The restart and the next look at the logs are scheduled.
		if err := m.AwaitPending(context.Background(), 2); err != nil {
			t.Fatal(err)
		}
		m.Advance(wait)
		if i == 0 {
			until(t, "b1 is up again", func() bool { _, err := os.Stat(up); return err == nil })
			until(t, "its pid file is there", func() bool { _, err := os.Stat(filepath.Join(b.o.Dir, "run", "b1.pid")); return err == nil })
		}
	}
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
}

// Without this a long history of small crashes would end in waits of half a minute.
func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1000: 30 * time.Second} {
		if got := backoff(n); got != want {
			t.Errorf("after death %d: %s, want %s", n, got, want)
		}
	}
}

// Without this the last blockd to stop would pack its disks onto its own two stores.
func TestDisksAreHandedOffBeforeAnyStoreStops(t *testing.T) {
	b := newBench(t, Options{Metads: 1, Blockds: 2})
	asked := 0
	b.o.owned = func(context.Context) (int, error) {
		asked++
		for _, id := range []string{"b1", "b2"} {
			until(t, id+" is told to drain", func() bool { _, err := os.Stat(b.data(id, "drained")); return err == nil })
			if gone(b.pid(id)) {
				t.Errorf("%s has ended while disks are open", id)
			}
		}
		return 3 - asked, nil // two, one, none
	}
	b.start()
	b.await("ready")
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

// Without this tests that kill a daemon for good would see it come back.
func TestNoRestart(t *testing.T) {
	b := newBench(t, Options{Metads: 1, Blockds: 2, NoRestart: true})
	b.start()
	b.await("ready")
	if err := syscall.Kill(b.pid("b2"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if line := b.await("b2 died (signal: killed)"); strings.Contains(line, "again") {
		t.Errorf("it would be restarted: %q", line)
	}
	if _, err := os.Stat(filepath.Join(b.o.Dir, "run", "b2.pid")); err == nil {
		t.Error("the dead daemon's pid file is left")
	}
	if gone(b.pid("b1")) {
		t.Error("the others must go on")
	}
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
}

// Without this a daemon that hangs would keep ashlar dev from ending.
func TestDeafDaemonIsKilledAfterItsGrace(t *testing.T) {
	m := clock.NewManual()
	b := newBench(t, Options{Metads: 1, Blockds: 1, Clock: m})
	if err := os.MkdirAll(b.data("b1", ""), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.data("b1", "mode"), []byte("deaf"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.awaitReady(m)
	pid := b.pid("b1")
	b.stop()
	b.await("stopping")
	until(t, "the grace has passed", func() bool { m.Advance(time.Second); return gone(pid) })
	b.await("b1 did not end within 30s; killing it")
	if err := b.end(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.data("m1", "graceful")); err != nil {
		t.Errorf("metad was not asked to end: %v", err)
	}
}

// Without this daemons would outlive a killed ashlar dev and hold ports and data.
func TestChildrenDieWithUs(t *testing.T) {
	b := newBench(t, Options{})
	cmd := exec.Command(filepath.Join(b.o.BinDir, "ashlar"), b.o.Dir, b.o.BinDir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "the fakes are up", func() bool { _, ok := b.o.serves(nil); return ok })
	f, err := LoadFile(b.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, id := range ids(f) {
		until(t, "the pid file is there", func() bool { _, err := os.Stat(filepath.Join(b.o.Dir, "run", id+".pid")); return err == nil })
		pids = append(pids, b.pid(id))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	for _, pid := range pids {
		until(t, "the child is gone", func() bool { return gone(pid) })
	}
}

// Without this two runs on one folder would fight over ports and stores.
func TestOneRunPerFolderTwoFoldersAtOnce(t *testing.T) {
	a, b := newBench(t, Options{Metads: 1, Blockds: 1}), newBench(t, Options{Metads: 1, Blockds: 1})
	a.start()
	b.start()
	a.await("ready")
	b.await("ready")
	again := newBench(t, Options{Dir: a.o.Dir, Metads: 1, Blockds: 1})
	again.start()
	if err := again.end(); !errors.Is(err, errs.ErrConflict) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("a second run on the folder: %v", err)
	}
	if err := errors.Join(a.end(), b.end()); err != nil {
		t.Fatal(err)
	}
}

// Without this a daemon that cannot start would leave the user waiting for nothing.
func TestHopelessStartSaysWhy(t *testing.T) {
	b := newBench(t, Options{Metads: 1, Blockds: 1, NoRestart: true})
	if err := os.MkdirAll(b.data("b1", ""), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.data("b1", "mode"), []byte("die"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	for line := range b.lines {
		b.all = append(b.all, line)
	}
	err := <-b.done
	if !errors.Is(err, errs.ErrUnavailable) || !strings.Contains(err.Error(), "told to die") {
		t.Errorf("got %v after\n%s", err, strings.Join(b.all, "\n"))
	}
	missing := newBench(t, Options{})
	if err := os.Remove(filepath.Join(missing.o.BinDir, "metad")); err != nil {
		t.Fatal(err)
	}
	missing.start()
	if err := missing.end(); !errors.Is(err, errs.ErrNotFound) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without binaries: %v", err)
	}
}

// Without this a deep folder would give socket paths the kernel refuses.
func TestSocketPathsAreShort(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("deep", 30))
	o := Options{Dir: long}
	p, err := newPlan(o)
	if err != nil {
		t.Fatal(err)
	}
	if path := filepath.Join(p.Sockets, "b32.sock"); len(path) > socketPathMax || strings.HasPrefix(path, long) {
		t.Errorf("socket path %s", path)
	}
	p, err = newPlan(Options{Dir: "/x"})
	if err != nil || p.Sockets != "/x/run" {
		t.Errorf("a short folder: %+v, %v", p, err)
	}
	other := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(other, link); err != nil {
		t.Fatal(err)
	}
	if err := ownFolder(link); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("a link was taken for a folder: %v", err)
	}
}

// Without this ports could collide with each other or with a running service.
func TestPortsAreFreeAndDistinct(t *testing.T) {
	p, err := newPlan(Options{Dir: "/x", Metads: 5, Blockds: 8})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, m := range p.Metads {
		for _, a := range []string{m.API, m.Raft, m.Debug} {
			seen[a] = true
		}
	}
	for _, x := range p.Blockds {
		for _, a := range []string{x.Data, x.NBD, x.Debug} {
			seen[a] = true
		}
	}
	if len(seen) != 13*3 {
		t.Errorf("%d addresses for 13 daemons", len(seen))
	}
	for a := range seen {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			t.Errorf("%s is not free: %v", a, err)
			continue
		}
		ln.Close()
	}
	for _, bad := range []Options{{Metads: 2}, {Metads: 9}, {Blockds: -1}, {Stores: 99}, {StoreSize: config.KiB}} {
		if _, err := newPlan(bad); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// Without this a year-old cluster would not start again, and an open key would go unseen.
func TestCertificatesAreRenewed(t *testing.T) {
	m := clock.NewManual()
	l := layout{filepath.Join(t.TempDir(), "d")}
	o := Options{Dir: l.dir, BinDir: fakeBinaries(t), Clock: m}
	f, err := Prepare(o)
	if err != nil {
		t.Fatal(err)
	}
	load := func() *pki.Credentials {
		t.Helper()
		c, err := pki.Load(m, l.tls("b1"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := load()
	if who := before.Self(); who.Cluster != f.Cluster || who.Role != pki.RoleBlockd || who.Name != "b1" {
		t.Errorf("certificate of b1 is %s", who)
	}
	for _, age := range []time.Duration{340 * 24 * time.Hour, 800 * 24 * time.Hour} { // about to expire; expired
		m.Advance(age)
		if _, err := l.prepare(o); err != nil {
			t.Fatal(err)
		}
		if after := load(); !after.Expires().After(m.Wall().Add(renewBefore)) {
			t.Errorf("after %s it expires %s", age, after.Expires())
		}
	}
	guest, err := pki.Load(m, pki.Files{CA: l.nbdFolder() + "/ca-cert.pem", Cert: l.nbdFolder() + "/client-cert.pem", Key: l.nbdFolder() + "/client-key.pem"})
	if err != nil || guest.Self().Role != pki.RoleNBD || !guest.Self().MayOpen("any") {
		t.Errorf("certificate for NBD clients: %v, %v", guest, err)
	}
	if err := os.Chmod(l.tls("b1").Key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.prepare(o); !errors.Is(err, errs.ErrDenied) {
		t.Errorf("an open key: %v", err)
	}
}

// Without this an experiment's settings would be lost, or would wipe a whole section.
func TestOverlay(t *testing.T) {
	l := layout{t.TempDir()}
	if err := l.make(); err != nil {
		t.Fatal(err)
	}
	over := filepath.Join(l.dir, "over.yaml")
	if err := os.WriteFile(over, []byte("memory: {write_buffer: 8MiB}\nnbd: {tls: required}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := newPlan(Options{Dir: l.dir, Metads: 1, Blockds: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.writeConfigs(p, Options{BlockdOverlay: over, SyncDelay: config.Duration(time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(l.config("b1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"write_buffer: 8MiB", "tls: required", "unix: ", "sync_delay: 1ms", "format: true", "size: 10GiB"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("missing %q in\n%s", want, text)
		}
	}
	if fi, err := os.Stat(l.config("b1")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

// Without this logs would fill the disk that the stores live on.
func TestLogsAreRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "b1.log")
	open, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := open.Truncate(logBytesMax); err != nil {
		t.Fatal(err)
	}
	if err := rotate(path, moveOpen); err != nil {
		t.Fatal(err)
	}
	if _, err := open.WriteString("after\n"); err != nil { // the child's descriptor goes on
		t.Fatal(err)
	}
	old, err1 := os.Stat(path + ".1")
	now, err2 := os.ReadFile(path)
	if err1 != nil || err2 != nil || old.Size() != logBytesMax || string(now) != "after\n" {
		t.Errorf("old %v %v, now %q %v", old, err1, now, err2)
	}
	if got := tail(path, 5); got != "after" {
		t.Errorf("tail %q", got)
	}
}
