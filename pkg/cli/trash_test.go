package cli

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/client"
	"ashlar.dev/pkg/errs"
)

// thrown takes a disk from those there are, into the trash if that is on.
func (f *fake) thrown(d *api.Disk, purge bool) client.Deleted {
	f.disks = slices.DeleteFunc(f.disks, func(x *api.Disk) bool { return x == d })
	out := client.Deleted{DiskID: d.DiskId}
	if f.keep > 0 && !purge {
		now := f.clock.Wall()
		out.Until = now.Add(time.Duration(f.keep) * time.Second)
		f.trash = append(f.trash, &api.TrashEntry{Kind: "disk", Id: d.DiskId, Name: d.Name, SizeBytes: d.SizeBytes, UsedBytes: 3 << 30, Snapshots: 2,
			DeletedUnixMs: now.UnixMilli(), DeletedBy: "operator ann", UntilUnixMs: out.Until.UnixMilli()})
	}
	return out
}

func (f *fake) Trash(context.Context) ([]*api.TrashEntry, uint64, error) {
	return f.trash, f.keep, f.err
}

func (f *fake) RestoreTrash(_ context.Context, id, name string) (*api.TrashEntry, error) {
	i := slices.IndexFunc(f.trash, func(e *api.TrashEntry) bool { return e.Id == id })
	e := f.trash[i]
	if name != "" {
		e.Name = name
	}
	if _, err := f.find(e.Name); err == nil {
		return nil, errs.ErrExists
	}
	f.disks = append(f.disks, &api.Disk{DiskId: e.Id, Name: e.Name, SizeBytes: e.SizeBytes})
	f.trash = slices.Delete(f.trash, i, i+1)
	return e, nil
}

func (f *fake) EmptyTrash(_ context.Context, id string) error {
	f.trash = slices.DeleteFunc(f.trash, func(e *api.TrashEntry) bool { return e.Id == id })
	return nil
}

// Who deletes the wrong disk must learn at once that it can be brought back, until when, and how; and be told what to do
// where its name is another's by now.
func TestDeletedDiskIsBroughtBack(t *testing.T) {
	x := newTerminal(t)
	x.must("cluster set --trash 7d")
	if x.fake.keep != 7*86400 {
		t.Errorf("kept for %d s", x.fake.keep)
	}
	x.must("disk create data --size 4GiB")
	for _, want := range []string{"it can be brought back until", "(for 7d): ashlar trash restore data"} {
		if out := x.must("disk delete data --with-snapshots"); !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
		x.must("disk create data --size 1GiB")
	}
	if code, text := x.fails("trash restore data"); code != codeConflict || !strings.Contains(text, "by its id") {
		t.Errorf("two had the name: %d %s", code, text)
	}
	first := x.fake.trash[0].Id
	if code, text := x.fails("trash restore " + first); code != codeConflict || !strings.Contains(text, "ashlar trash restore "+first+" --name NAME") {
		t.Errorf("the name is taken: %d %s", code, text)
	}
	if out := x.must("trash restore " + first + " --name data-old"); !strings.Contains(out, "disk data-old ("+first+") is back, with 2 snapshots") {
		t.Error(out)
	}
	x.fake.trash = append(x.fake.trash, &api.TrashEntry{Kind: "snapshot", Id: "s-9", Name: "monday", DiskId: "d-7", Disk: "db", SizeBytes: 1 << 30})
	out := x.must("trash list")
	for _, want := range []string{"KIND", "disk + 2 snapshots", "3 GiB", "db@monday", "operator ann"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	all := decode[[]trashView](t, x.must("trash list -o json"))
	if len(all) != 2 || all[0].HeldBytes == nil || *all[0].HeldBytes != 3<<30 || all[1].HeldBytes != nil || all[1].Name != "db@monday" {
		t.Errorf("%+v", all)
	}
	x.must("trash empty db@monday")
	if code, text := x.fails("trash restore db@monday"); code != codeNotFound || !strings.Contains(text, "ashlar trash list") {
		t.Errorf("what is gone: %d %s", code, text)
	}
	if code, _ := x.fails("trash empty"); code != codeUsage {
		t.Errorf("emptied unasked: %d", code)
	}
	x.must("trash empty --all")
	if out := x.must("trash list"); !strings.Contains(out, "the trash is empty; what is deleted can be brought back for 7d") {
		t.Error(out)
	}
	x.must("disk delete data --purge")
	if len(x.fake.trash) != 0 {
		t.Error("what was to be purged is in the trash")
	}
	if out := x.must("cluster set --trash 0"); !strings.Contains(out, "it is off") || x.fake.keep != 0 {
		t.Error(out)
	}
	if code, text := x.fails("cluster set --trash soon"); code != codeUsage || !strings.Contains(text, "7d") {
		t.Errorf("%d %s", code, text)
	}
}

// fails runs a line, and gives its exit code and what it said of the failure.
func (x *terminal) fails(line string) (int, string) {
	code := x.run(line)
	return code, x.err.String()
}
