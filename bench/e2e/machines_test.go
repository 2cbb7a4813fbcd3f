//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// machine is a host of a cluster as if it were alone: an address, a folder of configs and
// keys, one of state, and its daemons.
type machine struct {
	t             *testing.T
	bin, dir      string
	name, address string
	daemons       map[string]*exec.Cmd
	tokens        cluster.Secrets // of all machines of the test
}

// machines have loopback addresses that no other run has.
func machines(t *testing.T, names ...string) []*machine {
	t.Helper()
	bin, err := cluster.BinDir()
	must(t, err)
	top, err := os.MkdirTemp("", "ashlar") // a socket's path is short
	must(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			must(t, os.RemoveAll(top))
		}
	})
	var out []*machine
	tokens := make(cluster.Secrets)
	for i, name := range names {
		m := &machine{t: t, bin: bin, dir: filepath.Join(top, name), name: name, daemons: make(map[string]*exec.Cmd), tokens: tokens,
			address: fmt.Sprintf("127.%d.%d.%d", 100+os.Getpid()/250%100, 1+os.Getpid()%250, i+1)}
		must(t, os.MkdirAll(filepath.Join(m.dir, "run"), 0o700))
		t.Cleanup(func() {
			m.end("blockd", os.Kill) // in order, each would drain into the others
			m.end("metad", os.Kill)
		})
		t.Cleanup(m.tellsNoSecret)
		out = append(out, m)
	}
	return out
}

func (m *machine) etc() string { return filepath.Join(m.dir, "etc") }

// tellsNoSecret looks for keys and tokens in the logs, and in what a machine tells if it still knows.
func (m *machine) tellsNoSecret() {
	if _, err := os.Stat(m.etc()); err != nil {
		return // it never joined
	}
	logs, err := filepath.Glob(filepath.Join(m.dir, "*.log"))
	must(m.t, err)
	keys, err := cluster.SecretsIn(m.etc())
	must(m.t, err)
	for _, s := range []cluster.Secrets{keys, m.tokens} {
		if err := s.CheckFiles(logs...); err != nil {
			m.t.Error(err)
		}
		for _, args := range [][]string{{"status", "-v"}, {"events", "-n", "0", "-o", "json"}} {
			out, _ := m.try("", args...)
			if err := s.Check("ashlar "+args[0], []byte(out)); err != nil {
				m.t.Error(err)
			}
		}
	}
}

// try runs ashlar on this machine and gives its output and exit code.
func (m *machine) try(stdin string, args ...string) (string, int) {
	cmd := exec.Command(filepath.Join(m.bin, "ashlar"), append([]string{"--data", m.etc()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, _ := cmd.CombinedOutput() // the code tells
	return string(out), cmd.ProcessState.ExitCode()
}

func (m *machine) ashlar(args ...string) string {
	m.t.Helper()
	out, code := m.try("", args...)
	if code != 0 {
		m.t.Fatalf("ashlar %s on %s: exit code %d: %s", strings.Join(args, " "), m.name, code, out)
	}
	return out
}

func (m *machine) json(into any, args ...string) {
	m.t.Helper()
	must(m.t, json.Unmarshal([]byte(m.ashlar(append(args, "-o", "json")...)), into))
}

// place are the flags that say where things are on this machine.
func (m *machine) place(stores int) []string {
	args := []string{"--address", m.address, "--name", m.name, "--state", filepath.Join(m.dir, "state"), "--run", filepath.Join(m.dir, "run")}
	for i := range stores {
		args = append(args, "--store", filepath.Join(m.dir, fmt.Sprintf("s%d", i+1)), "--store-size", "2GiB")
	}
	return args
}

func (m *machine) join(token string, stores int, roles ...string) {
	m.t.Helper()
	args := append([]string{"host", "join", "-"}, m.place(stores)...)
	for _, r := range roles {
		args = append(args, "--role", r)
	}
	if out, code := m.try(token+"\n", args...); code != 0 {
		m.t.Fatalf("%s cannot join: exit code %d: %s", m.name, code, out)
	}
}

func (m *machine) start(daemon string, flags ...string) *exec.Cmd {
	m.t.Helper()
	log, err := os.OpenFile(filepath.Join(m.dir, daemon+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(m.t, err)
	defer log.Close()
	cmd := exec.Command(filepath.Join(m.bin, daemon), append([]string{"--config", filepath.Join(m.etc(), daemon+".yaml")}, flags...)...)
	cmd.Stderr = log
	must(m.t, cmd.Start())
	m.daemons[daemon] = cmd
	return cmd
}

func (m *machine) end(daemon string, sig os.Signal) {
	cmd := m.daemons[daemon]
	if cmd == nil {
		return
	}
	delete(m.daemons, daemon)
	_ = cmd.Process.Signal(sig) // it may have ended
	_ = cmd.Wait()
}

// lose kills a metad and takes its disk away.
func (m *machine) lose() {
	m.t.Helper()
	m.end("metad", os.Kill)
	must(m.t, os.RemoveAll(filepath.Join(m.dir, "state", "metad")))
}

func (m *machine) addTo(first *machine) {
	m.t.Helper()
	m.start("metad")
	args := []string{"metad", "add", m.name, "--api", m.address + ":7100", "--raft", m.address + ":7101"}
	must(m.t, cluster.Wait(m.name+" to be let in", patience, func() bool {
		_, code := first.try("", args...)
		return code == 0
	}))
}

func (m *machine) token(uses string, roles ...string) string {
	m.t.Helper()
	args := []string{"host", "token", "--uses", uses}
	for _, r := range roles {
		args = append(args, "--role", r)
	}
	var out struct {
		Token string `json:"token"`
	}
	m.json(&out, args...)
	m.tokens[out.Token] = "a join token"
	return out.Token
}

func (m *machine) disk(name string, content []byte) {
	m.t.Helper()
	m.ashlar("disk", "create", name, "--size", fmt.Sprint(len(content)))
	m.write(name, content)
}

func (m *machine) unix(name string) string {
	m.t.Helper()
	var e cluster.Endpoints
	m.json(&e, "disk", "nbd", name)
	return e.Unix
}

func (m *machine) write(name string, content []byte) {
	m.t.Helper()
	in := scratch(m.t, "in")
	must(m.t, os.WriteFile(in, content, 0o600))
	run(m.t, "nbdcopy", in, m.unix(name))
}

// holds reads a disk whole. Whoever owned it before a rebuilding is fenced once it hears of
// it, and its clients are cut off: those come again.
func (m *machine) holds(name string, want []byte) {
	m.t.Helper()
	out := scratch(m.t, "out")
	must(m.t, cluster.Wait("disk "+name+" to be read", patience, func() bool {
		return exec.Command("nbdcopy", m.unix(name), out).Run() == nil
	}))
	got, err := os.ReadFile(out)
	must(m.t, err)
	if !bytes.Equal(got, want) {
		m.t.Errorf("disk %s has other bytes than were written", name)
	}
}

func pattern(seed byte, mebibytes int) []byte {
	out := make([]byte, mebibytes<<20)
	x := uint32(seed) + 1
	for i := range out {
		x = x*1664525 + 1013904223
		out[i] = byte(x >> 24)
	}
	return out
}

// Three machines become a cluster, one of its metads is replaced by a fourth, all metads
// are lost and a backup is restored: all that was written, before the backup and after it,
// is there. Without any of this a cluster would be as mortal as its first three machines.
func TestMachinesJoinAreReplacedAndRestored(t *testing.T) {
	needTools(t, "nbdcopy")
	ms := machines(t, "a", "b", "c", "d")
	a, b, c, d := ms[0], ms[1], ms[2], ms[3]
	a.ashlar(append([]string{"cluster", "init"}, a.place(2)...)...)
	a.start("metad")
	a.start("blockd")
	must(t, cluster.Wait("the first metad", patience, func() bool { _, code := a.try("", "status"); return code == 0 }))
	token := a.token("2", "metad", "blockd")
	for _, m := range []*machine{b, c} {
		m.join(token, 2, "metad", "blockd")
		m.start("blockd")
		m.addTo(a)
	}
	if out, code := d.try(token+"\n", append([]string{"host", "join", "-", "--role", "metad"}, d.place(0)...)...); code != 6 || !strings.Contains(out, "used up") {
		t.Errorf("a token for two: exit code %d: %s", code, out)
	}
	storesUp(t, a, 6)
	early := pattern(1, 32)
	a.disk("early", early)
	backup := filepath.Join(a.dir, "backup")
	a.ashlar("metad", "backup", backup)

	c.lose()
	d.join(a.token("1", "metad"), 0, "metad")
	d.addTo(a)
	a.ashlar("metad", "remove", "c")
	members := membersOf(a)
	if len(members) != 3 || members["c"] || !members["d"] {
		t.Fatalf("members %v", members)
	}
	late := pattern(2, 16)
	a.disk("late", late)
	copy(early[8<<20:], pattern(3, 4))
	a.write("early", early)
	lateID := func() string {
		var x cluster.Disk
		a.json(&x, "disk", "show", "late")
		return x.DiskID
	}()

	for _, m := range []*machine{a, b, d} {
		m.lose()
	}
	rebuild(t, a, "--restore", backup)
	a.holds("early", early)
	a.holds("recovered-"+lateID, late)
	b.addTo(a)
	a.end("metad", os.Kill)
	a.start("metad")
	a.holds("early", early)
	d.addTo(a)
	majorityLost(t, a, b, d, early)
	a.holds("recovered-"+lateID, late)
}

// majorityLost takes two of three metads away for good. Without --recover-alone the one that is left could
// do nothing with all it knows; and if it did so beside another that lives, the cluster would have two truths.
func majorityLost(t *testing.T, a, b, d *machine, early []byte) {
	t.Helper()
	n, err := nbd.Dial(t.Context(), a.unix("early"), nbd.ClientOptions{})
	must(t, err)
	defer n.Hangup()
	b.lose()
	a.end("metad", os.Interrupt)
	cmd := a.start("metad", "--recover-alone")
	delete(a.daemons, "metad")
	if err := cmd.Wait(); err == nil {
		t.Fatal("a member began anew beside another that has data and answers")
	}
	a.start("metad")
	must(t, cluster.Wait("two of three to serve", patience, func() bool { _, code := a.try("", "disk", "create", "two", "--size", "1MiB"); return code == 0 }))
	d.lose()
	copy(early[2<<20:], pattern(4, 1))
	_, err = n.WriteAt(early[2<<20:3<<20], 2<<20)
	must(t, err)
	a.end("metad", os.Interrupt)
	rebuild(t, a, "--recover-alone")
	if members := membersOf(a); len(members) != 1 || !members["a"] {
		t.Errorf("members %v, want one that began anew", members)
	}
	a.holds("early", early)
	a.ashlar("disk", "show", "two")
	b.addTo(a)
	d.addTo(a)
	if members := membersOf(a); len(members) != 3 {
		t.Errorf("members %v, want three again", members)
	}
}

func membersOf(m *machine) map[string]bool {
	m.t.Helper()
	var list []struct {
		ID    string `json:"id"`
		Voter bool   `json:"voter"`
	}
	m.json(&list, "metad", "list")
	out := make(map[string]bool)
	for _, x := range list {
		out[x.ID] = x.Voter
	}
	return out
}

func storesUp(t *testing.T, m *machine, n int) {
	t.Helper()
	must(t, cluster.Wait(fmt.Sprint(n, " stores"), patience, func() bool {
		var s cluster.Status
		out, code := m.try("", "status", "-o", "json")
		return code == 0 && json.Unmarshal([]byte(out), &s) == nil && s.Counts.StoresUp == n
	}))
}

// rebuild begins anew on m, as the flags say, and ends the rebuilding when all stores have told.
func rebuild(t *testing.T, m *machine, flags ...string) {
	t.Helper()
	start := time.Now()
	cmd := m.start("metad", flags...)
	delete(m.daemons, "metad")
	must(t, cmd.Wait())
	m.start("metad")
	must(t, cluster.Wait("six stores to tell what they have", patience, func() bool {
		var s struct {
			Rebuilding bool     `json:"rebuilding"`
			Told       []string `json:"told"`
			Waiting    []string `json:"waiting"`
		}
		out, code := m.try("", "metad", "rebuild", "-o", "json")
		return code == 0 && json.Unmarshal([]byte(out), &s) == nil && s.Rebuilding && len(s.Told) == 6 && len(s.Waiting) == 0
	}))
	if out, code := m.try("", "disk", "create", "no", "--size", "1MiB"); code != 4 {
		t.Errorf("a disk was made while the state was rebuilt: exit code %d: %s", code, out)
	}
	m.ashlar("metad", "rebuild", "--finish")
	storesUp(t, m, 6)
	t.Logf("rebuilt %s after the restore began", time.Since(start).Round(10*time.Millisecond))
}
