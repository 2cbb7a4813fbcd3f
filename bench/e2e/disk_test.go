//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// Without this scripts could not rely on refusals and exit codes.
func TestRefusalsHaveTheirExitCodes(t *testing.T) {
	c := undisturbed(t)
	d := disk(t, c, "codes", "64MiB")
	for _, x := range []struct {
		args string
		code int
		says string // to people
	}{
		{"disk show codes", 0, ""},
		{"disk show " + d.DiskID, 0, ""},
		{"disk create codes --size 64MiB", 5, "another name"},
		{"disk create bad/name --size 64MiB", 2, ""},
		{"disk create tiny --size 100", 2, "4 KiB"},
		{"disk create nosize", 2, "--help"},
		{"disk resize codes --size 32MiB", 2, "only grow"},
		{"disk resize none --size 1GiB", 3, "disk list"},
		{"disk show none", 3, "disk list"},
		{"disk nbd none", 3, "disk list"},
		{"disk delete none", 3, "disk list"},
		{"disk frobnicate", 2, "--help"},
		{"--data " + t.TempDir() + " status", 3, "ashlar dev"},
		{"store lost st-none", 3, "store list"},
	} {
		r, err := c.CLI(strings.Fields(x.args)...)
		must(t, err)
		if r.Code != x.code || !strings.Contains(r.Stderr, x.says) || (r.Code != 0) != (r.Stderr != "") {
			t.Errorf("ashlar %s: exit code %d (want %d), stdout %q, stderr %q (want %q)", x.args, r.Code, x.code, r.Stdout, r.Stderr, x.says)
		}
	}
	if d, err := c.Disk("codes"); err != nil || d.SizeBytes != 64<<20 {
		t.Errorf("the disk is not what it was: %+v %v", d, err)
	}
}

// Without this QEMU's users would have no line that works, and scripts no stable keys.
func TestWhereToAttachADisk(t *testing.T) {
	c := undisturbed(t)
	d := disk(t, c, "where", "64MiB")
	e := endpoints(t, c, d.DiskID)
	if !strings.HasPrefix(e.Unix, "nbd+unix:///") || !strings.HasPrefix(e.TCP, "nbd") || e.DiskID != d.DiskID || len(e.All) != 3 {
		t.Errorf("%+v", e)
	}
	for _, x := range e.All {
		u, err := nbd.ParseURI(x.Unix)
		if err != nil || len(u.Address) > 107 {
			t.Errorf("%s: %v", x.Unix, err)
		}
	}
	r, err := c.CLI("disk", "nbd", "where", "--qemu")
	must(t, err)
	if r.Code != 0 || !strings.Contains(r.Stdout, "qemu-system") || !strings.Contains(r.Stdout, "reconnect-delay") {
		t.Errorf("%+v", r)
	}
	s, err := c.Status()
	must(t, err)
	if s.Health != "OK" || s.Counts.Stores != 6 || s.Counts.Metads != 3 || s.Counts.Blockds != 3 || s.Leader() == "" || len(s.Stores) != 6 {
		t.Errorf("%+v", s)
	}
}

// Without this a disk that grows would cut its client off, or new space would not work.
func TestDiskGrowsWhileAClientIsConnected(t *testing.T) {
	c := undisturbed(t)
	disk(t, c, "grow", "64MiB")
	e := endpoints(t, c, "grow")
	ctx := t.Context()
	var clients []*nbd.Client
	for _, uri := range e.UnixURIs() { // the owner and the proxies
		n, err := nbd.Dial(ctx, uri, nbd.ClientOptions{})
		must(t, err)
		defer n.Hangup()
		clients = append(clients, n)
	}
	p := []byte(strings.Repeat("before", 4096))
	_, err := clients[0].WriteAt(p, 32<<20)
	must(t, err)
	if _, err := clients[0].WriteAt(p, 100<<20); err == nil {
		t.Error("a write beyond the end went through")
	}
	var d cluster.Disk
	must(t, c.JSON(&d, "disk", "resize", "grow", "--size", "128MiB"))
	if d.SizeBytes != 128<<20 {
		t.Errorf("%+v", d)
	}
	for i, n := range clients {
		got := make([]byte, len(p))
		if _, err := n.ReadAt(got, 32<<20); err != nil || string(got) != string(p) {
			t.Errorf("client %d does not see its bytes after the disk grew: %v", i, err)
		}
	}
	for i, uri := range e.UnixURIs() {
		var n *nbd.Client
		must(t, cluster.Wait("the new size", patience, func() bool {
			if n, err = nbd.Dial(ctx, uri, nbd.ClientOptions{}); err != nil {
				return false
			}
			if n.Size() == 128<<20 {
				return true
			}
			n.Hangup()
			return false
		}))
		at := int64(100+i) << 20
		if _, err := n.WriteAt(p, at); err != nil {
			t.Errorf("write to the new space through %s: %v", uri, err)
		}
		got := make([]byte, len(p))
		if _, err := n.ReadAt(got, at); err != nil || string(got) != string(p) {
			t.Errorf("the new space through %s: %v", uri, err)
		}
		must(t, n.Close())
	}
}

// Without this thin disks would cost what they promise, and reading emptiness would take for ever.
func TestATebibyteCostsNothing(t *testing.T) {
	needTools(t, "nbdinfo")
	c := undisturbed(t)
	before, err := c.Status()
	must(t, err)
	disk(t, c, "thin", "1TiB")
	uri := endpoints(t, c, "thin").Unix
	if got := words(run(t, "nbdinfo", "--map=base:allocation", uri)); got != "0 1099511627776 3 hole,zero" {
		t.Errorf("map: %s", got)
	}
	n, err := nbd.Dial(t.Context(), uri, nbd.ClientOptions{})
	must(t, err)
	defer n.Hangup()
	p := make([]byte, 1<<20)
	for _, at := range []int64{0, 1 << 39, 1<<40 - 1<<20} {
		if _, err := n.ReadAt(p, at); err != nil && err != io.EOF {
			t.Fatal(err)
		}
	}
	_, err = n.WriteAt([]byte("end"), 1<<40-3)
	must(t, err)
	must(t, n.WriteZeroes(0, 1<<40-4096, 0)) // a disk's worth of zeros is no work either
	must(t, n.Flush())
	after, err := c.Status()
	must(t, err)
	if grew := int64(after.UsedBytes) - int64(before.UsedBytes); grew > 64<<20 {
		t.Errorf("a new disk of 1 TiB cost %d bytes", grew)
	}
}

// Without this space would never come back: of deleted disks, of trimmed ranges.
func TestSpaceComesBack(t *testing.T) {
	needTools(t, "fio")
	c := undisturbed(t)
	used := func() int64 {
		s, err := c.Status()
		must(t, err)
		return int64(s.UsedBytes)
	}
	const trimSize, size = 192 << 20, 128 << 20
	fill := func(name string, size int64) {
		disk(t, c, name, fmt.Sprint(size))
		run(t, "fio", "--name=fill", "--ioengine=nbd", "--uri="+endpoints(t, c, name).Unix, "--rw=write", "--bs=1M", "--iodepth=4", "--size="+fmt.Sprint(size))
	}
	before := steady(t, used)
	fill("trimmed", trimSize)
	fill("deleted", size)
	must(t, waitUsed(t, used, "both disks to be charged", func(n int64) bool { return n > before+trimSize+size }))
	full := steady(t, used) // every store has told, not some of them

	n, err := nbd.Dial(t.Context(), endpoints(t, c, "trimmed").Unix, nbd.ClientOptions{})
	must(t, err)
	must(t, n.Trim(0, trimSize, 0))
	must(t, n.Flush())
	must(t, waitUsed(t, used, "trimmed space to come back", func(n int64) bool { return n < full-trimSize }))
	p := make([]byte, 1<<20)
	if _, err := n.ReadAt(p, 17<<20); err != nil || strings.Trim(string(p), "\x00") != "" {
		t.Errorf("a trimmed range: %v", err)
	}
	trimmed := used()

	r, err := c.CLI("disk", "delete", "trimmed")
	must(t, err)
	if r.Code != 5 {
		t.Errorf("a disk with a client was deleted without --force: %+v", r)
	}
	must(t, n.Close())
	r, err = c.CLI("disk", "delete", "deleted", "-o", "json")
	must(t, err)
	if r.Code != 0 || !strings.Contains(r.Stdout, "diskId") {
		t.Fatalf("delete: %+v", r)
	}
	must(t, waitUsed(t, used, "a deleted disk's space to come back", func(n int64) bool { return n < trimmed-size }))
	// The name is free again.
	d, err := c.Create("deleted", "64MiB")
	must(t, err)
	if out, err := try("nbdinfo", "--map", endpoints(t, c, d.DiskID).Unix); err != nil || words(out) != "0 67108864 3 hole,zero" {
		t.Errorf("a new disk under an old name has old bytes: %v\n%s", err, out)
	}
}

// steady waits until every store has reported: the sum stays the same for several beats.
func steady(t *testing.T, used func() int64) (n int64) {
	t.Helper()
	var since time.Time
	must(t, cluster.Wait("the stores' reports to agree", patience, func() bool {
		if now := used(); now != n || n == 0 {
			n, since = now, time.Now()
		}
		return time.Since(since) > 3*time.Second
	}))
	return n
}

// waitUsed waits until the bytes used are as wanted and says what they are if they never come to be.
func waitUsed(t *testing.T, used func() int64, what string, ok func(int64) bool) error {
	t.Helper()
	var n int64
	if err := cluster.Wait(what, 2*patience, func() bool { n = used(); return ok(n) }); err != nil {
		return fmt.Errorf("%w: %d bytes are used", err, n)
	}
	return nil
}

// Without this a host could not be emptied of disks in peace: its clients would wait for
// timeouts and a recovery instead of a handoff.
func TestDiskMovesInOrder(t *testing.T) {
	needTools(t, "nbdcopy")
	c := undisturbed(t)
	disk(t, c, "moving", "16MiB")
	want := pattern(9, 16)
	in, out := scratch(t, "in"), scratch(t, "out")
	must(t, os.WriteFile(in, want, 0o600))
	e := endpoints(t, c, "moving")
	run(t, "nbdcopy", in, e.Unix)
	from := endpoints(t, c, "moving").All[0].Host
	for _, to := range []string{"b2", "b3", from} {
		r, err := c.CLI("disk", "move", "moving", "--to", to)
		must(t, err)
		if r.Code != 0 {
			t.Fatalf("move to %s: exit code %d: %s", to, r.Code, r.Stderr)
		}
		d, err := c.Disk("moving")
		must(t, err)
		if d.Owner != to {
			t.Fatalf("the owner is %s, want %s", d.Owner, to)
		}
		run(t, "nbdcopy", e.Unix, out) // by the way it came, whoever owns it now
		got, err := os.ReadFile(out)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("on %s the disk has other bytes", to)
		}
	}
	if r, err := c.CLI("disk", "move", "moving", "--to", "b9"); err != nil || r.Code != 3 {
		t.Errorf("to a host that is not there: exit code %d, %v", r.Code, err)
	}
}
