package server

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"ashlar.dev/pkg/errs"
)

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // by the test perhaps
	return l
}

// Without this a restart would take its clients' socket away, or serve them at one that the
// config does not name: perhaps without the TLS that it asks for.
func TestInheritedSocketsAreTheConfigsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nbd.sock")
	unix, tcp := listen(t, "unix", path), listen(t, "tcp", "127.0.0.1:0")
	d, err := openDoors(NBD{Unix: path, TCP: tcp.Addr().String()}, []net.Listener{tcp, unix})
	if err != nil || d.unix != unix || d.tcp != tcp {
		t.Fatal(d, err)
	}
	for name, cfg := range map[string]NBD{
		"another path": {Unix: path + "2"}, "no unix socket": {TCP: "127.0.0.1:1"}, "another port": {Unix: path, TCP: "127.0.0.1:1"}, "no port": {Unix: path}, "any address": {Unix: path, TCP: ":"},
	} {
		path := filepath.Join(t.TempDir(), "s")
		if cfg.Unix != "" && name != "another path" {
			cfg.Unix = path
		}
		tcp := listen(t, "tcp", "127.0.0.1:0")
		if cfg.TCP == ":" {
			cfg.TCP = fmt.Sprintf(":%d", tcp.Addr().(*net.TCPAddr).Port)
		}
		_, err := openDoors(cfg, []net.Listener{listen(t, "unix", path), tcp})
		if !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A socket file that a dead process left must not keep its successor from serving.
func TestDeadSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nbd.sock")
	l := listen(t, "unix", path)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := openDoors(NBD{Unix: path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close(nil)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close() // it said nothing
}
