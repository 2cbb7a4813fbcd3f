package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/nbd"
)

// Front is a qemu-storage-daemon between a disk and clients that cannot connect again: when
// the disk's server goes away it holds their requests back for up to Patience.
type Front struct {
	URI  string // where clients find the disk
	dir  string
	cmd  *exec.Cmd
	said said
}

// said is what a program prints.
type said struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

const frontStart = 60 * time.Second // generous, for a slow machine with other work

// NewFront starts a front of the disk at uri, a unix socket's. Close ends it.
func NewFront(ctx context.Context, uri string, patience time.Duration) (*Front, error) {
	u, err := nbd.ParseURI(uri)
	if err != nil {
		return nil, err
	}
	return newFront(ctx, fmt.Sprintf("server.type=unix,server.path=%s,export=%s", u.Address, u.Export), patience)
}

// NewTLSFront is NewFront of a disk at host:port, over TCP with TLS. certificates is the folder with the client's.
func NewTLSFront(ctx context.Context, address, export, certificates string, patience time.Duration) (*Front, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address of the disk: %w", err)
	}
	server := fmt.Sprintf("server.type=inet,server.host=%s,server.port=%s,tls-creds=tls0,export=%s", host, port, export)
	return newFront(ctx, server, patience, "--object", "tls-creds-x509,id=tls0,endpoint=client,dir="+certificates)
}

func newFront(ctx context.Context, server string, patience time.Duration, objects ...string) (*Front, error) {
	dir, err := os.MkdirTemp("", "ashlar-front-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	socket := filepath.Join(dir, "s")
	f := &Front{URI: "nbd+unix:///d?socket=" + socket, dir: dir}
	f.cmd = exec.Command("qemu-storage-daemon", append(objects,
		"--blockdev", fmt.Sprintf("driver=nbd,node-name=d,%s,reconnect-delay=%d,cache.direct=on", server, int(patience.Seconds())),
		"--nbd-server", "addr.type=unix,addr.path="+socket+",max-connections=0", "--export", "type=nbd,id=e,node-name=d,name=d,writable=on")...)
	f.cmd.Stdout, f.cmd.Stderr = &f.said, &f.said
	if err := f.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start qemu-storage-daemon: %w", err), os.RemoveAll(dir))
	}
	err = cluster.WaitContext(ctx, "qemu-storage-daemon", frontStart, func() bool {
		n, err := nbd.Dial(ctx, f.URI, nbd.ClientOptions{})
		if err == nil {
			n.Hangup()
		}
		return err == nil
	})
	if err != nil {
		return nil, errors.Join(err, fmt.Errorf("it said: %s", f.Said()), f.Close())
	}
	return f, nil
}

// Said is what the daemon has printed.
func (f *Front) Said() string { return f.said.String() }

// Close kills the daemon.
func (f *Front) Close() error {
	_ = f.cmd.Process.Kill() // it fails only when it is gone already
	_ = f.cmd.Wait()         // it was killed
	return os.RemoveAll(f.dir)
}
