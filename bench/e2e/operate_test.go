//go:build e2e

package e2e

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// Without this a host that is to be rebooted keeps its disks, or loses them from under their
// clients; and who watches (top, events --follow) sees nothing of it.
func TestHostIsDrainedUnderIO(t *testing.T) {
	c := undisturbed(t)
	disk(t, c, "evacuated", "64MiB")
	e := endpoints(t, c, "evacuated")
	p := probe(t, "evacuated", e.UnixURIs()...)
	events := follow(t, c)
	d, err := c.Disk("evacuated")
	must(t, err)
	var top struct {
		Disks []struct {
			Name string  `json:"name"`
			Read float64 `json:"readIops"`
		} `json:"disks"`
	}
	must(t, c.JSON(&top, "top", "--once", "--every", "1s"))
	seen := false
	for _, x := range top.Disks {
		seen = seen || x.Name == "evacuated" && x.Read > 0
	}
	if !seen {
		t.Errorf("top does not see the disk read: %+v", top)
	}
	var v struct{ Moved []string }
	must(t, c.JSON(&v, "host", "drain", d.Owner))
	if !strings.Contains(strings.Join(v.Moved, " "), "evacuated") {
		t.Errorf("moved: %v", v.Moved)
	}
	after, err := c.Disk("evacuated")
	must(t, err)
	if after.Owner == "" || after.Owner == d.Owner || after.Epoch <= d.Epoch {
		t.Errorf("before %+v, after %+v", d, after)
	}
	p.await("answers after the drain", 200)
	p.judge(e.Unix)
	events.await("disk_moved", "evacuated", after.DiskID)
}

// following is an ashlar events --follow.
type following struct {
	t     *testing.T
	lines chan string
}

func follow(t *testing.T, c *cluster.Cluster) *following {
	t.Helper()
	bin, err := cluster.BinDir()
	must(t, err)
	cmd := exec.Command(filepath.Join(bin, "ashlar"), "--data", c.Dir, "events", "--follow", "-n", "0", "-o", "json")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	f := &following{t, make(chan string, 1000)}
	go func() {
		defer close(f.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			f.lines <- in.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		for range f.lines { // to its end
		}
		_ = cmd.Wait()
	})
	return f
}

// await waits for an event of a kind, about one of some subjects.
func (f *following) await(kind string, subjects ...string) {
	f.t.Helper()
	must(f.t, cluster.Wait("the event "+kind, patience, func() bool {
		select {
		case line := <-f.lines:
			var e struct{ Kind, Subject string }
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				f.t.Fatalf("a line of events that is no JSON: %q", line)
			}
			return e.Kind == kind && strings.Contains(strings.Join(subjects, " "), e.Subject)
		default:
			return false
		}
	}))
}

// secretText is what must not leave a machine: keys in PEM, join tokens, what an archive is encrypted with.
var secretText = regexp.MustCompile(`PRIVATE KEY|ashlar-join-[A-Za-z0-9]|secret_key *[:=] *[^\[ ]`)

// Without this what is sent to somebody for help has the keys of the cluster in it, or nothing that helps.
func TestDebugBundleHelpsAndHoldsNoSecret(t *testing.T) {
	c := undisturbed(t)
	file := scratch(t, "bundle.tar.gz")
	var said struct {
		Files []struct{ Name, Problem string }
	}
	must(t, c.JSON(&said, "debug", "bundle", "--out", file))
	for _, x := range said.Files {
		if x.Problem != "" {
			t.Errorf("%s: %s", x.Name, x.Problem)
		}
	}
	keys := privateKeys(t, c.Dir)
	all := unpack(t, file)
	for name, text := range all {
		if s := secretText.FindString(text); s != "" {
			t.Errorf("%s has %q in it", name, s)
		}
		for _, k := range keys {
			if strings.Contains(text, k) {
				t.Errorf("%s has a line of a key in it", name)
			}
		}
	}
	for name, want := range map[string]string{"status.json": `"health"`, "events.json": "groups_formed", "members.json": `"m1"`, "version.json": `"go"`,
		"daemons/b1/metrics.txt": "blockd_store_used_bytes", "daemons/b1/config.yaml": "nbd", "daemons/b1/log.txt": "serving", "daemons/m1/log.txt": "metad", "daemons/b1/goroutines.txt": "goroutine"} {
		if !strings.Contains(all[name], want) {
			t.Errorf("%s does not have %q", name, want)
		}
	}
}

// privateKeys are lines of the keys of a cluster, unlike any other text.
func privateKeys(t *testing.T, dir string) (lines []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "pki", "*.key"))
	must(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		must(t, err)
		lines = append(lines, strings.Split(string(text), "\n")[1])
	}
	if len(lines) < 5 {
		t.Fatalf("only %d keys in %s", len(lines), dir)
	}
	return lines
}

func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	out := make(map[string]string)
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		text, err := io.ReadAll(in)
		must(t, err)
		out[h.Name] = string(text)
	}
}
