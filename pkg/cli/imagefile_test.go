package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/diskfile"
	"ashlar.dev/pkg/errs"
)

// fakeTool stands for qemu-img.
type fakeTool struct {
	t    *testing.T
	fail error
	uris []string

	before func() // it works; may be nil
}

func (f *fakeTool) Inspect(context.Context, *os.File, diskfile.Format) (uint64, error) {
	return 5000, nil
}

func (f *fakeTool) ToNBD(_ context.Context, _ *os.File, _ diskfile.Format, uri string, p diskfile.Progress) error {
	f.uris = append(f.uris, uri)
	if f.before != nil {
		f.before()
	}
	p(50_000)
	return f.fail
}

func (f *fakeTool) FromNBD(_ context.Context, uri, path string, as diskfile.Format, compress bool, p diskfile.Progress) error {
	f.uris = append(f.uris, uri)
	if f.before != nil {
		f.before()
	}
	p(50_000)
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s %v", as, compress), 0o600); err != nil {
		f.t.Error(err)
	}
	return f.fail
}

func (x *terminal) withTool() *fakeTool {
	x.tool = &fakeTool{t: x.t}
	return x.tool
}

// disksNow are the names of the fake's disks.
func (x *terminal) disksNow() (names []string) {
	for _, d := range x.fake.disks {
		names = append(names, d.Name)
	}
	return names
}

// Without this an import that fails could leave an image that is half a file, or a disk that nobody knows.
func TestImportMakesAnImageOrNothing(t *testing.T) {
	x := newTerminal(t)
	tool := x.withTool()
	file := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(file, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	tool.fail = fmt.Errorf("the disk is on fire: %w", errs.ErrUnavailable)
	if code := x.run("image import deb " + file); code != codeUnavailable || !strings.Contains(x.err.String(), "on fire") {
		t.Errorf("%d %s", code, x.err.String())
	}
	if len(x.fake.images) != 0 || len(x.disksNow()) != 0 {
		t.Fatalf("left behind: %v %v", x.fake.images, x.disksNow())
	}
	tool.fail = nil
	if out := x.must("image import deb " + file + " --description old"); !strings.Contains(out, "--from-image deb") {
		t.Error(out)
	}
	m := x.fake.images[0]
	if m.SizeBytes != 1<<20 || m.Format != "raw" || m.Source != "file disk.raw" || m.Description != "old" || len(x.disksNow()) != 0 {
		t.Errorf("%v, disks %v", m, x.disksNow())
	}
	for line, want := range map[string]int{
		"image import deb " + file:                       codeConflict,
		"image import x " + file + " --format qcow2":     codeUsage,
		"image import x " + filepath.Dir(file):           codeUsage,
		"image import x " + file + ".none":               codeNotFound,
		"image import x " + file + " --format something": codeUsage,
	} {
		if code := x.run(line); code != want || len(x.disksNow()) != 0 {
			t.Errorf("%s: %d %s", line, code, x.err.String())
		}
	}
}

// Without this a file could be there under its name before all of it is, take another's place, or leave its parts.
func TestExportedFilesAreWhole(t *testing.T) {
	x := newTerminal(t)
	tool := x.withTool()
	x.must("disk create d --size 4GiB")
	x.must("image create deb --from-disk d")
	dir := t.TempDir()
	files := func() string {
		all, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range all {
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			names = append(names, f.Name()+"="+string(b))
			if err != nil {
				t.Error(err)
			}
		}
		return strings.Join(names, ", ")
	}
	tool.fail = errors.New("no such luck")
	if code := x.run("image export deb " + dir + "/a.vmdk"); code != codeFailed || files() != "" {
		t.Errorf("%d, %s", code, files())
	}
	tool.fail = nil
	x.must("image export deb " + dir + "/a.vmdk --compress")
	if code := x.run("image export deb " + dir + "/a.vmdk"); code != codeConflict || files() != "a.vmdk=vmdk true" {
		t.Errorf("%d, %s", code, files())
	}
	x.must("image export deb " + dir + "/a.vmdk --force --format raw")
	if files() != "a.vmdk=raw false" {
		t.Error(files())
	}
	if names := x.disksNow(); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	x.must("snapshot create d --name s")
	x.must("snapshot export d@s " + dir + "/b")
	if last := tool.uris[len(tool.uris)-1]; !strings.Contains(last, "@s") || !strings.Contains(files(), "b=qcow2 false") {
		t.Errorf("%s, %s", last, files())
	}
	if code := x.run("snapshot export d@none " + dir + "/c"); code != codeNotFound {
		t.Errorf("%d %s", code, x.err.String())
	}
}

// A file that came there meanwhile stays.
func TestExportTakesNobodysPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	_, err := whole(path, false, func(side string) error {
		return errors.Join(os.WriteFile(side, []byte("ours"), 0o600), os.WriteFile(path, []byte("theirs"), 0o600))
	})
	if b, e := os.ReadFile(path); !errors.Is(err, errs.ErrExists) || e != nil || !bytes.Equal(b, []byte("theirs")) {
		t.Errorf("%v, %s %v", err, b, e)
	}
}

// Without this whoever stops an import or an export would be told what that is called inside, and not what became of it; and whose own disk
// is full would be sent to the stores.
func TestStoppedAndFullSayWhatBecameOfIt(t *testing.T) {
	x := newTerminal(t)
	tool := x.withTool()
	file := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(file, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	x.must("disk create d --size 4GiB")
	x.must("image create deb --from-disk d")
	tool.fail = context.Canceled
	for _, line := range []string{"image import new " + file, "image export deb " + file + ".qcow2"} {
		ctx, cancel := context.WithCancel(t.Context())
		tool.before = cancel
		code := x.runUntil(ctx, line)
		if text := x.err.String(); code != codeFailed || !strings.Contains(text, "interrupted; nothing was left behind") || strings.Contains(text, "context") {
			t.Errorf("%s: %d %s", line, code, text)
		}
	}
	tool.before, tool.fail = nil, errs.ErrNoSpace
	if code := x.run("image export deb " + file + ".qcow2"); code != codeNoSpace || strings.Contains(x.err.String(), "store") || !strings.Contains(x.err.String(), filepath.Dir(file)) {
		t.Errorf("%d %s", code, x.err.String())
	}
	if len(x.disksNow()) != 1 {
		t.Errorf("left behind: %v", x.disksNow())
	}
}
