package export

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/nbd"
	"ashlar.dev/pkg/nbd/devices"
	"ashlar.dev/pkg/volproto"
)

func at(host string) nbd.Peer { return nbd.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(host), Port: 4000}} }

// Without this a multi-conn client would shut its own connections out, or one that came back
// would share the session of the connection it gave up, whose writes may land later.
func TestWhoSharesASession(t *testing.T) {
	s := newSessions(Config{Clock: clock.NewManual(), Holder: id.Holder{Host: "h"}})
	v := id.Volume{1}
	gone := false
	first := at("10.0.0.1")
	first.HungUp = func() bool { return gone }
	a, leaveA := s.join(v, "vm", first)
	b, leaveB := s.join(v, "vm", at("10.0.0.1"))
	if a != b {
		t.Errorf("two connections of a client: %v and %v", a, b)
	}
	if other, leave := s.join(v, "vm2", at("10.0.0.1")); other.Attachment == a.Attachment {
		t.Error("two names are one attachment")
	} else {
		leave()
	}
	moved, leaveMoved := s.join(v, "vm", at("10.0.0.2"))
	if moved.Attachment != a.Attachment || moved.Number <= a.Number {
		t.Errorf("the attachment moved to another host: %v after %v", moved, a)
	}
	leaveA()
	leaveB()
	leaveMoved()
	if len(s.open) != 0 {
		t.Errorf("%d left", len(s.open))
	}
	a, leaveA = s.join(v, "vm", first)
	gone = true
	back, leaveBack := s.join(v, "vm", at("10.0.0.1"))
	if back.Number <= a.Number {
		t.Errorf("it hung up and came back: %v after %v", back, a)
	}
	again, leaveAgain := s.join(v, "vm", at("10.0.0.1"))
	if again != back {
		t.Errorf("its second connection: %v, the first is %v", again, back)
	}
	leaveA() // late, and of an older session
	if third, leave := s.join(v, "vm", at("10.0.0.1")); third != back {
		t.Errorf("its third connection: %v, the first is %v", third, back)
	} else {
		leave()
	}
	leaveBack()
	leaveAgain()
}

// gatedExports is one device behind a gate, with the sessions of a host.
type gatedExports struct {
	sessions *sessions
	gate     volproto.Gate
	device   nbd.Device
	came     chan volproto.Session
}

func (x *gatedExports) Open(ctx context.Context, name string, peer nbd.Peer) (nbd.Handle, error) {
	_, attachment := splitName(name)
	s, leave := x.sessions.join(id.Volume{1}, attachment, peer)
	x.came <- s
	h, err := x.gate.Attach(ctx, s, nbd.Shared(x.device))
	if err != nil {
		leave()
		return nil, err
	}
	return &sessionHandle{h, leave}, nil
}

func (x *gatedExports) List(context.Context, nbd.Peer) ([]nbd.ExportName, error) { return nil, nil }

func (x *gatedExports) Describe(context.Context, string, nbd.Peer) (uint64, nbd.Info, error) {
	return x.device.Size(), nbd.Info{}, nil
}

// slowWrites holds writes back until they are let go.
type slowWrites struct {
	nbd.Device
	held, letGo chan struct{}
}

func (d *slowWrites) Submit(r *nbd.Request) {
	if r.Op != nbd.OpWrite {
		d.Device.Submit(r)
		return
	}
	go func() {
		d.held <- struct{}{}
		<-d.letGo
		d.Device.Submit(r)
	}()
}

// Schedule: a client's write is slow; it gives its connection up, comes back to the same
// host under the same name, and reads. The write may have happened by then or never will, but
// not after the read. A chaos run of 22 minutes saw it (seed 2026).
func TestComingBackWaitsForWhatWasGivenUp(t *testing.T) {
	device := &slowWrites{Device: devices.NewMemory(1<<20, 1<<20), held: make(chan struct{}), letGo: make(chan struct{})}
	x := &gatedExports{sessions: newSessions(Config{Clock: clock.System, Holder: id.Holder{Host: "h"}}), device: device, came: make(chan volproto.Session, 2)}
	server, err := nbd.NewServer(nbd.Config{Exports: x, Clock: clock.System, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l, nbd.Endpoint{}) }() // Close ends it
	uri := "nbd+unix:///d%23vm?socket=" + path
	first, err := nbd.Dial(t.Context(), uri, nbd.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := first.WriteAt([]byte("late"), 0)
		failed <- err
	}()
	<-device.held
	first.Hangup()
	if err := <-failed; err == nil {
		t.Fatal("an answer to a write that is under way")
	}
	back := make(chan *nbd.Client, 1)
	go func() {
		c, err := nbd.Dial(context.WithoutCancel(t.Context()), uri, nbd.ClientOptions{})
		if err != nil {
			t.Error(err)
		}
		back <- c
	}()
	// A higher number is let in when nothing of the lower ones is under way; see volproto.Gate.
	if one, two := <-x.came, <-x.came; two.Attachment != one.Attachment || two.Number <= one.Number {
		t.Errorf("comes back as %v after %v", two, one)
	}
	close(device.letGo)
	c := <-back
	if c == nil {
		return
	}
	defer c.Hangup()
	got := make([]byte, 4)
	if _, err := c.ReadAt(got, 0); err != nil || string(got) != "late" {
		t.Errorf("reads %q, %v", got, err)
	}
}
