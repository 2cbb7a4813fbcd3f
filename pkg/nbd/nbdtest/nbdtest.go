// Package nbdtest helps to test nbd devices and servers: a blocking way to ask a device, a server and
// client joined by a socket, and Conformance, the suite that every body of nbd.Device must pass.
// It is for tests only.
package nbdtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/nbd"
)

// Do asks d and waits. data is the payload of a write; a read brings its bytes, holes filled.
func Do(d nbd.Device, op nbd.Op, flags nbd.Flags, offset, length uint64, data []byte) ([]byte, error) {
	done := make(chan error, 1)
	r := nbd.NewRequest(op, flags, offset, length, data, nbd.CompleterFunc(func(_ *nbd.Request, err error) { done <- err }))
	if op == nbd.OpRead {
		fill(r.Data, 0xA5) // what a device forgets to fill shows
	}
	d.Submit(r)
	err := <-done
	var out []byte
	if op == nbd.OpRead && err == nil {
		r.FillHoles()
		out = append(out, r.Data...)
	}
	r.Recycle()
	return out, err
}

// fill sets all of p to v.
func fill(p []byte, v byte) {
	if len(p) == 0 {
		return
	}
	p[0] = v
	for n := 1; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

// Status asks d for the extents of a range and waits.
func Status(d nbd.Device, flags nbd.Flags, offset, length uint64) ([]nbd.Extent, error) {
	done := make(chan error, 1)
	r := nbd.NewRequest(nbd.OpBlockStatus, flags, offset, length, nil, nbd.CompleterFunc(func(_ *nbd.Request, err error) { done <- err }))
	d.Submit(r)
	err := <-done
	extents := append([]nbd.Extent(nil), r.Extents()...)
	r.Recycle()
	return extents, err
}

// Exports is a fixed set of devices by name.
type Exports map[string]nbd.Device

// Open gives the device of name.
func (e Exports) Open(_ context.Context, name string, _ nbd.Peer) (nbd.Handle, error) {
	d, ok := e[name]
	if !ok {
		return nil, fmt.Errorf("export %q: %w", name, errs.ErrNotFound)
	}
	return nbd.Shared(d), nil
}

// List names them all, in no order.
func (e Exports) List(context.Context, nbd.Peer) ([]nbd.ExportName, error) {
	var names []nbd.ExportName
	for name, d := range e {
		names = append(names, nbd.ExportName{Name: name, Description: d.Info().Description})
	}
	return names, nil
}

// Serve runs a server with cfg on a unix socket until the test ends, and gives the socket's path.
func Serve(t testing.TB, cfg nbd.Config, ep nbd.Endpoint) (*nbd.Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := nbd.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- s.Serve(l, ep) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the server: %v", err)
		}
		if err := <-over; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = os.RemoveAll(dir) // a leftover in the temporary directory harms nobody
	})
	return s, path
}

// Dial opens an export of a server of Serve; the client closes when the test ends.
func Dial(t testing.TB, path, export string, o nbd.ClientOptions) *nbd.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := nbd.Dial(ctx, nbd.URI{Unix: true, Address: path, Export: export}.String(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Hangup)
	return c
}

// Over gives d as a client sees it through a server.
func Over(t testing.TB, d nbd.Device, o nbd.ClientOptions) *nbd.Client {
	t.Helper()
	_, path := Serve(t, nbd.Config{Exports: Exports{"": d}}, nbd.Endpoint{})
	return Dial(t, path, "", o)
}

// Seed gives a seed for random tests, from SEED where that is set, and logs it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SEED=%q: %v", s, err)
		}
	}
	t.Logf("SEED=%d", seed)
	return seed
}
