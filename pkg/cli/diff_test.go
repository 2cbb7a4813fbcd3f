package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

func (f *fake) changes(uri, since string, each func(client.Change) error) error {
	f.diffed = append(f.diffed, uri+" "+since)
	if strings.Contains(uri, ":10002/") {
		return errs.ErrUnavailable // the first host
	}
	if since == "none" {
		return errs.ErrNotFound
	}
	for _, x := range f.diffs {
		if err := each(x); err != nil {
			return err
		}
	}
	return nil
}

// Without this the difference of two snapshots could be that of others, or be lost with the first host that is away.
func TestDiffAsksForTheRightSides(t *testing.T) {
	x := newTerminal(t)
	x.must("disk create data --size 4GiB")
	if got := x.must("snapshot diff data@monday"); got != "disk data is as monday was\n" {
		t.Errorf("printed %q", got)
	}
	x.fake.diffs = []client.Change{{Offset: 4096, Length: 8192}, {Offset: 1 << 20, Length: 4096, Zero: true}}
	x.fake.diffed = nil
	v := decode[diffView](t, x.must("snapshot diff data@monday tuesday -o json"))
	if fmt.Sprint(x.fake.diffed) != "[nbd://127.0.0.1:10002/data@tuesday monday nbd://127.0.0.1:10001/data@tuesday monday]" {
		t.Errorf("asked %v", x.fake.diffed)
	}
	if v.ChangedBytes != 12288 || len(v.Extents) != 2 || !v.Extents[1].Zero || v.To != "tuesday" || v.From != "monday" {
		t.Errorf("printed %+v", v)
	}
	if got := x.must("snapshot diff data@monday data@tuesday"); !strings.Contains(got, "snapshot tuesday of disk data differs from monday in 12 KiB, 2 ranges") || !strings.Contains(got, "1048576  4096   4 KiB  zeros") {
		t.Errorf("printed %s", got)
	}
	for line, want := range map[string]string{
		"snapshot diff data":                   "DISK@NAME",
		"snapshot diff data@a other@b":         "another disk",
		"snapshot diff data@none":              "ashlar snapshot list data",
		"snapshot diff nothing@monday tuesday": "nothing",
	} {
		if code := x.run(line); code == 0 || !strings.Contains(x.err.String(), want) {
			t.Errorf("%s: %d %s", line, code, x.err.String())
		}
	}
}

// Without this the command would fail where TLS is asked for, or try sockets of other machines.
func TestDiffTakesWhatCanBeReached(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v := nbdView{All: []endpointView{
		{Unix: "nbd+unix:///d?socket=/elsewhere", TCP: "nbds://10.0.0.1:10809/d", Up: true},
		{Unix: "nbd+unix:///d?socket=" + socket, TCP: "nbds://10.0.0.2:10809/d"},
		{Unix: "nbd+unix:///d?socket=" + socket, Up: true},
	}}
	got := strings.Join(reachable(v, "x", "/c"), " ")
	if want := "nbd+unix:///d@x?socket=" + socket + " nbds://10.0.0.1:10809/d@x?tls-certificates=%2Fc"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Without this a group of snapshots would be taken as one of its disks, or one after the other.
func TestSnapshotsOfSeveralDisks(t *testing.T) {
	x := newTerminal(t)
	x.must("disk create data --size 4GiB")
	x.must("disk create log --size 1GiB")
	got := decode[[]snapshotView](t, x.must("snapshot create --disk data --disk log --name both -o json"))
	if len(got) != 2 || got[0].Export != "data@both" || got[1].Export != "log@both" {
		t.Errorf("%+v", got)
	}
	if one := decode[snapshotView](t, x.must("snapshot create --disk data --name one -o json")); one.Export != "data@one" {
		t.Errorf("%+v", one)
	}
	if text := x.must("snapshot create data --disk log --name again"); !strings.Contains(text, "2 disks at one point in time") {
		t.Errorf("printed %s", text)
	}
	if one := decode[snapshotView](t, x.must("snapshot create data@two -o json")); one.Export != "data@two" {
		t.Errorf("a snapshot named as elsewhere: %+v", one)
	}
	for _, line := range []string{"snapshot create data@three --name four", "snapshot create data@"} {
		if code := x.run(line); code != codeUsage || !strings.Contains(x.err.String(), "DISK@NAME") {
			t.Errorf("%s: %d %s", line, code, x.err.String())
		}
	}
	if code := x.run("snapshot create --name none"); code == 0 || !strings.Contains(x.err.String(), "disk list") {
		t.Errorf("no disk: %d %s", code, x.err.String())
	}
}

// Without this one long reason would tear the table of snapshots apart.
func TestLongReasonsAreCutInTables(t *testing.T) {
	for text, want := range map[string]string{"archived": "archived", strings.Repeat("é", 40): strings.Repeat("é", 40), strings.Repeat("é", 41): strings.Repeat("é", 39) + "…"} {
		if got := brief(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
