package lifecycle

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ashlar.dev/pkg/clock"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Without this a failed part would leave the rest of a daemon running half dead.
func TestFirstErrorCancelsTheOthers(t *testing.T) {
	g := NewGroup(context.Background())
	boom := errors.New("boom")
	g.Go("waiter", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	g.Go("worker", func(context.Context) error { return boom })
	err := g.Wait()
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "worker: ") {
		t.Errorf("Wait: %v", err)
	}
	if !errors.Is(context.Cause(g.Context()), boom) {
		t.Errorf("cause: %v", context.Cause(g.Context()))
	}
}

// Without this Close could return while goroutines still touch what is freed next.
func TestCloseWaitsAndMayBeRepeated(t *testing.T) {
	g := NewGroup(context.Background())
	var mu sync.Mutex
	ended := 0
	for range 10 {
		g.Go("loop", func(ctx context.Context) error {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			ended++
			return ctx.Err()
		})
	}
	if g.Running()["loop"] != 10 {
		t.Errorf("running: %v", g.Running())
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := g.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			mu.Lock()
			defer mu.Unlock()
			if ended != 10 {
				t.Errorf("Close returned with %d of 10 ended", ended)
			}
		})
	}
	wg.Wait()
	if g.Go("late", func(context.Context) error { return nil }) {
		t.Error("a closed group started a goroutine")
	}
}

// Without this a group that was idle for a moment could not be used again, or Wait would miss work.
func TestGroupMayBeIdleBetween(t *testing.T) {
	g := NewGroup(context.Background())
	for range 100 {
		ran := false
		g.Go("short", func(context.Context) error { ran = true; return nil })
		if err := g.Wait(); err != nil || !ran {
			t.Fatalf("Wait: %v, ran %v", err, ran)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

// Without this a part could be closed before the parts that stand on it.
func TestStackClosesInReverse(t *testing.T) {
	s := NewStack(clock.NewManual(), nil)
	var got []string
	boom := errors.New("boom")
	s.PushCloser("store", func() error { got = append(got, "store"); return nil })
	s.PushCloser("engine", func() error { got = append(got, "engine"); return boom })
	s.Push("server", func(context.Context) error { got = append(got, "server"); return nil })
	err := s.Close(context.Background())
	if !errors.Is(err, boom) || !slices.Equal(got, []string{"server", "engine", "store"}) {
		t.Errorf("Close: %v, order %v", err, got)
	}
	if err := s.Close(context.Background()); err != nil || len(got) != 3 {
		t.Errorf("second Close: %v, order %v", err, got)
	}
	s.PushCloser("late", func() error { got = append(got, "late"); return nil })
	if got[len(got)-1] != "late" {
		t.Error("what is pushed onto a closed stack must be closed")
	}
}

// Without this SIGTERM would kill a daemon before it has drained.
func TestSignalEndsContext(t *testing.T) {
	ctx, stop := SignalContext(context.Background())
	defer stop()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	stop()
}

// Without this systemd would kill a daemon of Type=notify as not started.
func TestNotifySpeaksToSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	for want, f := range map[string]func() error{
		"READY=1": NotifyReady, "STOPPING=1": NotifyStopping,
		"STATUS=x": func() error { return NotifyStatus("x") },
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("got %q %v, want %q", buf[:n], err, want)
		}
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := NotifyReady(); err != nil {
		t.Errorf("without systemd: %v", err)
	}
}
