package devices_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/nbd/devices"
	"ashlar.dev/pkg/nbd/nbdtest"
)

// Without this a wrapper would change what passes through it.
func TestWrappersConform(t *testing.T) {
	for name, wrap := range map[string]func(nbd.Device) nbd.Device{
		"faults without rules": func(d nbd.Device) nbd.Device { return &devices.Faults{Device: d} },
		"delay": func(d nbd.Device) nbd.Device {
			return &devices.Delay{Device: d, Read: 1, Write: 1, Other: 1, After: func(_ time.Duration, f func()) { go f() }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			nbdtest.Conformance(t, nbdtest.Suite{Steps: 100, Open: func(_ *testing.T, size uint64) nbd.Device {
				return wrap(devices.NewMemory(size, 0))
			}})
		})
	}
}

// Without this a test's memory disk could take all memory, or not give space back.
func TestMemoryKeepsItsLimit(t *testing.T) {
	d := devices.NewMemory(1<<40, 128<<10)
	data := make([]byte, 64<<10)
	for i := range 2 {
		if _, err := nbdtest.Do(d, nbd.OpWrite, 0, uint64(i)<<30, uint64(len(data)), data); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nbdtest.Do(d, nbd.OpWrite, 0, 5<<30, 1, data[:1]); !errors.Is(err, errs.ErrNoSpace) {
		t.Fatalf("write above the limit: %v", err)
	}
	if _, err := nbdtest.Do(d, nbd.OpWriteZeroes, nbd.FlagNoHole, 5<<30, 1, nil); !errors.Is(err, errs.ErrNoSpace) {
		t.Fatalf("allocation above the limit: %v", err)
	}
	if _, err := nbdtest.Do(d, nbd.OpTrim, 0, 0, 64<<10, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := nbdtest.Do(d, nbd.OpWrite, 0, 5<<30, 1, data[:1]); err != nil {
		t.Fatalf("write after trim: %v", err)
	}
	if d.Grow(1 << 20); d.Size() != 1<<40 {
		t.Fatal("it shrank")
	}
	if d.Grow(1 << 41); d.Size() != 1<<41 {
		t.Fatal("it did not grow")
	}
	if _, err := nbdtest.Do(d, nbd.OpWriteZeroes, nbd.FlagFastZero|nbd.FlagNoHole, 0, 4096, nil); !errors.Is(err, nbd.ErrNotSupported) {
		t.Fatalf("fast allocation: %v", err)
	}
}

// Without this holes and data of the map would be swapped.
func TestMemoryMapsItsHoles(t *testing.T) {
	d := devices.NewMemory(1<<20, 0)
	if _, err := nbdtest.Do(d, nbd.OpWrite, 0, 128<<10, 1, []byte{1}); err != nil {
		t.Fatal(err)
	}
	got, err := nbdtest.Status(d, 0, 0, 1<<20)
	want := []nbd.Extent{{Length: 128 << 10, State: nbd.StateHole | nbd.StateZero}, {Length: 64 << 10}, {Length: 832 << 10, State: nbd.StateHole | nbd.StateZero}}
	if err != nil || len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Fatalf("%v, %v", got, err)
	}
}

// Without this the floor of the server would not be what it says.
func TestNullForgetsEverything(t *testing.T) {
	d := devices.Null{Bytes: 1 << 30}
	if _, err := nbdtest.Do(d, nbd.OpWrite, 0, 0, 3, []byte("abc")); err != nil {
		t.Fatal(err)
	}
	got, err := nbdtest.Do(d, nbd.OpRead, 0, 0, 3, nil)
	if err != nil || !bytes.Equal(got, make([]byte, 3)) || d.Size() != 1<<30 || !d.Info().MultiConn {
		t.Fatalf("%x, %v", got, err)
	}
	if e, err := nbdtest.Status(d, 0, 0, 4096); err != nil || e[0].State != nbd.StateHole|nbd.StateZero {
		t.Fatal(e, err)
	}
}

// Without this faults would strike at the wrong request, or not end.
func TestFaultsStrikeWhereTold(t *testing.T) {
	d := &devices.Faults{Device: devices.NewMemory(1<<20, 0)}
	d.Inject(devices.Fault{Ops: []nbd.Op{nbd.OpWrite}, Offset: 4096, End: 8192, Err: errs.ErrNoSpace, Times: 1})
	d.Inject(devices.Fault{Ops: []nbd.Op{nbd.OpTrim}, Err: nbd.EIO, Done: true})
	write := func(offset uint64) error {
		_, err := nbdtest.Do(d, nbd.OpWrite, 0, offset, 4, []byte("data"))
		return err
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	if err := write(8192); err != nil {
		t.Fatal(err)
	}
	if err := write(4093); !errors.Is(err, errs.ErrNoSpace) {
		t.Fatal(err)
	}
	if err := write(4096); err != nil {
		t.Fatalf("after its one time: %v", err)
	}
	if _, err := nbdtest.Do(d, nbd.OpTrim, 0, 0, 1<<20, nil); !errors.Is(err, nbd.EIO) {
		t.Fatal(err)
	}
	if got, err := nbdtest.Do(d, nbd.OpRead, 0, 0, 4, nil); err != nil || !bytes.Equal(got, make([]byte, 4)) {
		t.Fatalf("the trim was not done: %q, %v", got, err)
	}
	if d.Hits() != 2 {
		t.Fatalf("%d hits", d.Hits())
	}
	d.Heal()
	if _, err := nbdtest.Do(d, nbd.OpTrim, 0, 0, 1<<20, nil); err != nil {
		t.Fatal(err)
	}
}

// Without this a read-only disk could be changed by somebody who does not come through the server.
func TestReadOnlyRefusesChanges(t *testing.T) {
	d := devices.ReadOnly{Device: devices.NewMemory(1<<20, 0)}
	for _, op := range []nbd.Op{nbd.OpWrite, nbd.OpTrim, nbd.OpWriteZeroes} {
		if _, err := nbdtest.Do(d, op, 0, 0, 4, []byte("data")); !errors.Is(err, errs.ErrDenied) {
			t.Errorf("%v: %v", op, err)
		}
	}
	if _, err := nbdtest.Do(d, nbd.OpRead, 0, 0, 4, nil); err != nil || !d.Info().ReadOnly {
		t.Fatal(err)
	}
}

// Without this a delay would be skipped, or counted on the wrong operations.
func TestDelayWaits(t *testing.T) {
	var waits []time.Duration
	d := &devices.Delay{Device: devices.NewMemory(1<<20, 0), Read: 1, Write: 2, Other: 3, After: func(wait time.Duration, f func()) { waits = append(waits, wait); f() }}
	for _, op := range []nbd.Op{nbd.OpRead, nbd.OpWrite, nbd.OpFlush, nbd.OpTrim, nbd.OpWriteZeroes, nbd.OpCache} {
		if _, err := nbdtest.Do(d, op, 0, 0, 4, []byte("data")); err != nil {
			t.Fatal(err)
		}
	}
	want := []time.Duration{1, 2, 2, 2, 2, 3}
	for i := range want {
		if len(waits) != len(want) || waits[i] != want[i] {
			t.Fatalf("waited %v", waits)
		}
	}
}
