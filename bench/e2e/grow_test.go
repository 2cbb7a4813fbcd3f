//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// growth is what a cluster says of itself while it grows.
type growth struct {
	Reasons []struct {
		Code string `json:"code"`
	} `json:"reasons"`
	Balance struct {
		Paused       bool    `json:"paused"`
		Active       bool    `json:"active"`
		ApartPercent float64 `json:"apartPercent"`
		BytesLeft    uint64  `json:"bytesLeft"`
	} `json:"balance"`
	Recoding struct {
		Groups    int    `json:"groups"`
		BytesLeft uint64 `json:"bytesLeft"`
	} `json:"recoding"`
	Profiles []struct {
		Profile string `json:"profile"`
	} `json:"profiles"`
}

// sound tells that nothing is wrong but that these clusters have one metad.
func (g growth) sound() bool { return len(g.Reasons) == 1 && g.Reasons[0].Code == "metad_few" }

func (m *machine) grown() (g growth, ok bool) {
	out, code := m.try("", "status", "-o", "json")
	return g, code == 0 && json.Unmarshal([]byte(out), &g) == nil
}

// small lets the machine have stores that are soon full, and pack soon.
func (m *machine) small(args []string) []string {
	for i := range args {
		if args[i] == "2GiB" {
			args[i] = "768MiB"
		}
	}
	return args
}

func (m *machine) packSoon() { m.configure("blockd.yaml", "volume:\n  seal_idle: 2s") }

// configure adds to one of the machine's configs.
func (m *machine) configure(file, text string) {
	m.t.Helper()
	f, err := os.OpenFile(filepath.Join(m.etc(), file), os.O_APPEND|os.O_WRONLY, 0o600)
	must(m.t, err)
	_, err = fmt.Fprintln(f, text)
	must(m.t, err)
	must(m.t, f.Close())
}

// enter has a machine join with two stores and serve.
func (m *machine) enter(first *machine) {
	m.t.Helper()
	args := append([]string{"host", "join", "-", "--role", "blockd"}, m.small(m.place(2))...)
	if out, code := m.try(first.token("1", "blockd")+"\n", args...); code != 0 {
		m.t.Fatalf("%s cannot join: %s", m.name, out)
	}
	m.packSoon()
	m.start("blockd")
}

// Without this stores that are added stay empty while the first ones are full. What is there
// moves to them while it is read and written, and is paused when somebody wants it.
func TestAddedHostTakesItsShare(t *testing.T) {
	needTools(t, "nbdcopy")
	ms := machines(t, "a", "b", "c", "d")
	a := ms[0]
	a.ashlar(append([]string{"cluster", "init"}, a.small(a.place(2))...)...)
	a.packSoon()
	a.start("metad")
	a.start("blockd")
	must(t, cluster.Wait("the first metad", patience, func() bool { _, code := a.try("", "status"); return code == 0 }))
	for _, m := range ms[1:3] {
		m.enter(a)
	}
	storesUp(t, a, 6)
	content := pattern(1, 512)
	a.ashlar("cluster", "set", "--rebalance", "off")
	a.disk("filled", content)
	ms[3].enter(a)
	storesUp(t, a, 8)
	waitGrown := func(what string, ok func(growth) bool) (g growth) {
		t.Helper()
		var said bool
		err := cluster.Wait(what, patience, func() bool { g, said = a.grown(); return said && ok(g) })
		if err != nil {
			t.Fatalf("%v: %+v", err, g)
		}
		return g
	}
	before := waitGrown("stores to be apart", func(g growth) bool { return g.Balance.ApartPercent > 10 && g.sound() })
	if !before.Balance.Paused || before.Balance.Active {
		t.Errorf("paused: %+v", before.Balance)
	}
	a.ashlar("cluster", "set", "--rebalance", "on")
	copy(content[100<<20:], pattern(2, 64))
	a.write("filled", content)
	after := waitGrown("stores to be balanced", func(g growth) bool { return !g.Balance.Active && g.Balance.ApartPercent < 10 && g.sound() })
	t.Logf("%.0f points apart, then %.0f", before.Balance.ApartPercent, after.Balance.ApartPercent)
	a.holds("filled", content)
	events := a.ashlar("events")
	for _, want := range []string{"rebalance_begun", "rebalance_done", "rebalance_paused", "rebalance_resumed"} {
		if !slices.Contains(kinds(t, a), want) {
			t.Errorf("no event %s in %s", want, events)
		}
	}
	ms[3].getsAStore(a)
	storesUp(t, a, 9)
	ms[3].isTakenAway(a)
	a.holds("filled", content)
}

// getsAStore has a disk more put into a machine that serves. No start of its blockd is needed,
// and the next one keeps it.
func (m *machine) getsAStore(first *machine) {
	m.t.Helper()
	pid := m.daemons["blockd"].Process.Pid
	dir := filepath.Join(m.dir, "s9")
	out, code := m.try("", "store", "add", dir, "--size", "768MiB", "-o", "json")
	var v struct{ StoreID, Host, State string }
	if err := json.Unmarshal([]byte(out), &v); code != 0 || err != nil || v.Host != m.name || v.State != "asked" || v.StoreID == "" {
		m.t.Fatalf("store add: exit code %d: %s", code, out)
	}
	if out, code := m.try("", "store", "add", dir, "--size", "768MiB"); code != 5 {
		m.t.Errorf("store add of the same folder: exit code %d: %s", code, out)
	}
	state := func(want string) func() bool {
		return func() bool {
			var all []struct{ StoreID, State string }
			first.json(&all, "store", "list")
			return slices.Contains(all, struct{ StoreID, State string }{v.StoreID, want})
		}
	}
	must(m.t, cluster.Wait("the added store to serve", patience, state("up")))
	if m.daemons["blockd"].Process.Pid != pid {
		m.t.Error("blockd was started anew")
	}
	m.end("blockd", os.Interrupt)
	must(m.t, cluster.Wait("the added store to be down", patience, state("down")))
	m.start("blockd")
	must(m.t, cluster.Wait("the added store to serve after a start", patience, state("up")))
}

// isTakenAway empties a machine and takes it off the list. Its keys are of no use then, and
// another machine may have its name.
func (m *machine) isTakenAway(first *machine) {
	m.t.Helper()
	if out, code := first.try("", "host", "remove", m.name); code != 5 || !strings.Contains(out, "stop it") {
		m.t.Errorf("removed while it runs: exit code %d: %s", code, out)
	}
	first.ashlar("host", "drain", m.name, "--stores")
	must(m.t, cluster.Wait("its stores to be empty", patience, func() bool {
		var all []struct{ Host string }
		first.json(&all, "store", "list")
		return !slices.ContainsFunc(all, func(x struct{ Host string }) bool { return x.Host == m.name })
	}))
	m.end("blockd", os.Interrupt)
	must(m.t, cluster.Wait("it to be silent, and taken off", patience, func() bool {
		_, code := first.try("", "host", "remove", m.name)
		return code == 0
	}))
	refused := m.start("blockd")
	delete(m.daemons, "blockd")
	if err := refused.Wait(); err == nil {
		m.t.Error("it came back with its old keys")
	}
	log, err := os.ReadFile(filepath.Join(m.dir, "blockd.log"))
	must(m.t, err)
	if !strings.Contains(string(log), "was removed from the cluster") {
		m.t.Errorf("blockd does not say why it ends: %s", log[max(0, len(log)-2000):])
	}
	must(m.t, os.RemoveAll(m.etc()))
	must(m.t, os.RemoveAll(filepath.Join(m.dir, "state")))
	m.join(strings.Fields(first.ashlar("host", "token", "--role", "blockd", "--for", m.name))[0], 0, "blockd")
	m.start("blockd")
	must(m.t, cluster.Wait("another machine of that name", patience, func() bool { return strings.Contains(first.ashlar("host", "list"), m.name+" ") }))
}

// Without this what was written while there were two hosts would take three times its room for
// ever. All of it gets the code that three hosts allow, what only a snapshot has and what
// nobody has open too, and then it is read with any two stores gone.
func TestTwoHostsBecomeThree(t *testing.T) {
	needTools(t, "nbdcopy")
	ms := machines(t, "a", "b", "c")
	a, b := ms[0], ms[1]
	a.ashlar(append([]string{"cluster", "init"}, a.small(a.place(2))...)...)
	a.packSoon()
	a.configure("metad.yaml", "store_out_after: 3s")
	a.start("metad")
	a.start("blockd")
	must(t, cluster.Wait("the first metad", patience, func() bool { _, code := a.try("", "status"); return code == 0 }))
	b.enter(a)
	storesUp(t, a, 4)
	old, idle := pattern(1, 24), pattern(2, 8)
	a.disk("used", old)
	a.ashlar("snapshot", "create", "used", "--name", "before")
	a.disk("idle", idle)
	now := append(pattern(3, 12), old[12<<20:]...)
	a.write("used", now)
	ms[2].enter(a)
	storesUp(t, a, 6)
	var g growth
	err := cluster.Wait("all to have one code", patience, func() bool {
		var ok bool
		g, ok = a.grown()
		return ok && g.sound() && g.Recoding.Groups == 0 && len(g.Profiles) == 1 && g.Profiles[0].Profile == "4+2"
	})
	if err != nil {
		t.Fatalf("%v: %+v", err, g)
	}
	must(t, cluster.Wait("the events of it", patience, func() bool {
		all := kinds(t, a)
		return slices.Contains(all, "recode_begun") && slices.Contains(all, "recode_done")
	}))
	b.end("blockd", os.Kill)
	a.holds("used", now)
	out := scratch(t, "out")
	var d cluster.Disk
	a.json(&d, "disk", "show", "used")
	run(t, "nbdcopy", exported(a.unix("used"), d.DiskID, "used@before"), out)
	snapped, err := os.ReadFile(out)
	must(t, err)
	if !bytes.Equal(snapped, old) {
		t.Error("the snapshot has other bytes than were written")
	}
	a.holds("idle", idle)
}

func kinds(t *testing.T, m *machine) (out []string) {
	t.Helper()
	var all []struct {
		Kind string `json:"kind"`
	}
	m.json(&all, "events")
	for _, e := range all {
		out = append(out, e.Kind)
	}
	return out
}
