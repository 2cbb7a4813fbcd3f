package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"

	"ashlar.dev/pkg/errs"
)

// Daemon is what is known of a daemon of this machine.
type Daemon struct {
	Name   string // such as metad or b1
	Config string // its file
	Log    string // a file; empty: the journal of its unit
	Unit   string // of systemd
	Debug  string // its debug_listen; empty: none
}

// logTail is how much of a log is kept: its end.
const logTail = 4 << 20

// Pieces are all that can be had of d.
func (d Daemon) Pieces() []Piece {
	in := func(name string) string { return "daemons/" + d.Name + "/" + name }
	out := []Piece{{Name: in("config.yaml"), Get: func(context.Context) (io.ReadCloser, error) { return open(d.Config) }}}
	if d.Log != "" {
		out = append(out, Piece{Name: in("log.txt"), Get: func(context.Context) (io.ReadCloser, error) { return tail(d.Log) }})
	} else {
		out = append(out, Piece{Name: in("log.txt"), Get: d.journal})
	}
	for _, x := range []struct {
		name, path string
		binary     bool
	}{
		{"health.txt", "/healthz", false}, {"metrics.txt", "/metrics", false},
		{"goroutines.txt", "/debug/pprof/goroutine?debug=1", false}, {"heap.pprof", "/debug/pprof/heap", true},
	} {
		out = append(out, Piece{Name: in(x.name), Binary: x.binary, Get: func(ctx context.Context) (io.ReadCloser, error) { return d.ask(ctx, x.path) }})
	}
	return out
}

func open(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open file: %w", err)
	}
	return f, nil
}

// tail opens a file near its end, at the beginning of a line.
func tail(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() > logTail {
		_, err = f.Seek(-logTail, io.SeekEnd)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read end of log: %w", err), f.Close())
	}
	return f, nil
}

// journalLines is how much of a unit's journal is kept.
const journalLines = "20000"

// journal asks systemd for the unit's last lines.
func (d Daemon) journal(ctx context.Context) (io.ReadCloser, error) {
	if d.Unit == "" {
		return nil, fmt.Errorf("where its log is, is not known: %w", errs.ErrNotFound)
	}
	out, err := exec.CommandContext(ctx, "journalctl", "--no-pager", "--quiet", "--output=cat", "--lines="+journalLines, "--unit="+d.Unit).Output()
	if err != nil {
		return nil, fmt.Errorf("ask journal of %s: %w", d.Unit, err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the journal has nothing of unit %s: %w", d.Unit, errs.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(out[max(0, len(out)-logTail):])), nil
}

// ask gets a page of the daemon's debug server. It answers to this machine only.
func (d Daemon) ask(ctx context.Context, path string) (io.ReadCloser, error) {
	if d.Debug == "" {
		return nil, fmt.Errorf("its config has no debug_listen: %w", errs.ErrNotFound)
	}
	network, address := "tcp", d.Debug
	if socket, ok := strings.CutPrefix(d.Debug, "unix:"); ok {
		network, address = "unix", socket
	} else if strings.HasPrefix(address, ":") {
		address = "127.0.0.1" + address
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://daemon"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", d.Debug, err)
	}
	r, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w: %w", d.Debug, errs.ErrUnavailable, err)
	}
	if r.StatusCode != http.StatusOK && path != "/healthz" { // an unhealthy one says why
		return nil, errors.Join(fmt.Errorf("ask %s: %s: %w", d.Debug, r.Status, errs.ErrUnavailable), r.Body.Close())
	}
	return r.Body, nil
}
