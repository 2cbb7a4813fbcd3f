//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// The CA of a cluster is changed while a client writes and verifies: no daemon is restarted,
// no connection dropped, no write lost; at the end who has only the old CA's certificate is a
// stranger. Without this a lost key would mean a cluster that stops, or one that is open for ever.
func TestCAChangesUnderIO(t *testing.T) {
	needTools(t, "fio", "nbdcopy")
	ms := machines(t, "a", "b", "c")
	a, b, c := ms[0], ms[1], ms[2]
	a.ashlar(append([]string{"cluster", "init"}, a.place(2)...)...)
	a.start("metad")
	a.start("blockd")
	must(t, cluster.Wait("the first metad", patience, func() bool { _, code := a.try("", "status"); return code == 0 }))
	token := a.token("2", "blockd")
	for _, m := range []*machine{b, c} {
		m.join(token, 2, "blockd")
		m.start("blockd")
	}
	storesUp(t, a, 6)
	stale := filepath.Join(a.dir, "stale")
	must(t, exec.Command("cp", "-a", a.etc(), stale).Run())
	where, err := os.ReadFile(filepath.Join(stale, "cluster.yaml"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(stale, "cluster.yaml"), []byte(strings.ReplaceAll(string(where), a.etc(), stale)), 0o600))

	const size = 256 << 20
	a.ashlar("disk", "create", "busy", "--size", fmt.Sprint(size))
	stop := busyClient(t, a.unix("busy"), size)
	a.ashlar("ca", "rotate", "begin")
	if out, code := a.try("", "ca", "rotate", "finish"); code != 5 {
		t.Errorf("finish right after begin: exit code %d: %s", code, out)
	}
	a.ashlar("--timeout", "60s", "ca", "rotate", "switch")
	a.ashlar("--timeout", "60s", "ca", "rotate", "finish")
	oneCA(t, a)
	stop()
	// New connections are made with the new certificates alone.
	c.end("blockd", os.Kill)
	c.start("blockd")
	storesUp(t, a, 6)
	late := pattern(4, 8)
	a.disk("late", late)
	a.holds("late", late)
	if out, code := a.tryIn(stale, "status"); code == 0 {
		t.Errorf("a certificate of the dropped CA opens the door: %s", out)
	}
	if log, err := os.ReadFile(filepath.Join(a.dir, "metad.log")); err != nil || !strings.Contains(string(log), "API connection refused") {
		t.Errorf("who was refused is not in the log: %v", err)
	}
	if kind := a.ashlar("events", "--about", "identity", "--last", "0"); !strings.Contains(kind, "certificate_renewed") || !strings.Contains(kind, "ca_changes") {
		t.Errorf("events: %s", kind)
	}
}

// tryIn runs ashlar with the configs and keys of another folder.
func (m *machine) tryIn(dir string, args ...string) (string, int) {
	cmd := exec.Command(filepath.Join(m.bin, "ashlar"), append([]string{"--data", dir, "--timeout", "5s"}, args...)...)
	out, _ := cmd.CombinedOutput() // the code tells
	return string(out), cmd.ProcessState.ExitCode()
}

// oneCA waits until everybody trusts one CA.
func oneCA(t *testing.T, a *machine) {
	t.Helper()
	var ca struct {
		Phase   string `json:"phase"`
		Holders []struct {
			Name, Issuer string
			TrustsAll    bool
			Told         bool
		} `json:"holders"`
		CAs []struct{ Fingerprint string } `json:"cas"`
	}
	must(t, cluster.Wait("everybody to trust the new CA alone", patience, func() bool {
		out, code := a.try("", "ca", "show", "-o", "json")
		if code != 0 || json.Unmarshal([]byte(out), &ca) != nil {
			return false
		}
		for _, h := range ca.Holders {
			if h.Told && !h.TrustsAll {
				return false
			}
		}
		return ca.Phase == "rest" && len(ca.CAs) == 1
	}))
}

// busyClient has a client write and verify; what it gives ends it, and looks whether it saw an error.
func busyClient(t *testing.T, uri string, size int) (end func()) {
	t.Helper()
	stop := filepath.Join(t.TempDir(), "stop")
	fio := exec.Command("fio", "--name=busy", "--ioengine=nbd", "--uri="+uri, "--rw=randwrite", "--bs=16k", "--iodepth=8", "--size="+fmt.Sprint(size),
		"--verify=crc32c", "--verify_backlog=64", "--verify_fatal=1", "--verify_state_save=0", "--time_based", "--runtime=600", "--trigger-file="+stop, "--trigger="+"true")
	var said strings.Builder
	fio.Stdout, fio.Stderr = &said, &said
	must(t, fio.Start())
	ended := make(chan error, 1)
	go func() { ended <- fio.Wait() }()
	return func() {
		t.Helper()
		select {
		case err := <-ended:
			t.Fatalf("the client ended too early: %v\n%s", err, said.String())
		default:
		}
		must(t, os.WriteFile(stop, nil, 0o600))
		if err := <-ended; err != nil && !strings.Contains(said.String(), "err= 0") {
			t.Errorf("the client: %v\n%s", err, said.String())
		}
		if strings.Contains(said.String(), "verify:") || strings.Contains(said.String(), "error=") {
			t.Errorf("the client saw errors:\n%s", said.String())
		}
	}
}
