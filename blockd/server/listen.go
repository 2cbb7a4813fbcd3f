package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"ashlar.dev/pkg/errs"
)

// doors are where NBD clients come in: nil where there is none.
type doors struct{ unix, tcp net.Listener }

// openDoors makes the sockets that the config names, or takes those that the service
// manager holds open: clients who come while blockd starts again find these.
func openDoors(cfg NBD, inherited []net.Listener) (d doors, err error) {
	defer func() {
		if err != nil {
			d.close(inherited)
		}
	}()
	for _, l := range inherited {
		switch a := l.Addr().(type) {
		case *net.UnixAddr:
			if d.unix != nil || a.Name != cfg.Unix {
				return d, fmt.Errorf("the service manager passes socket %s, nbd.unix is %q: %w", a.Name, cfg.Unix, errs.ErrInvalid)
			}
			d.unix = l
		case *net.TCPAddr:
			if want, e := net.ResolveTCPAddr("tcp", cfg.TCP); d.tcp != nil || cfg.TCP == "" || e != nil || want.Port != a.Port || !sameIP(want.IP, a.IP) {
				return d, fmt.Errorf("the service manager passes port %s, nbd.tcp is %q: %w", a, cfg.TCP, errs.ErrInvalid)
			}
			d.tcp = l
		default:
			return d, fmt.Errorf("the service manager passes a socket of %s: %w", l.Addr().Network(), errs.ErrInvalid)
		}
	}
	if cfg.Unix != "" && d.unix == nil {
		if d.unix, err = listenUnix(cfg.Unix); err != nil {
			return d, err
		}
	}
	if cfg.TCP != "" && d.tcp == nil {
		if d.tcp, err = net.Listen("tcp", cfg.TCP); err != nil {
			return d, fmt.Errorf("listen for nbd clients: %w", err)
		}
	}
	return d, nil
}

// sameIP compares addresses to listen at; none is any.
func sameIP(a, b net.IP) bool {
	if anyIP := func(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }; anyIP(a) || anyIP(b) {
		return anyIP(a) && anyIP(b)
	}
	return a.Equal(b)
}

func (d *doors) close(more []net.Listener) {
	for _, l := range append(more, d.unix, d.tcp) {
		if l != nil {
			_ = l.Close() // nobody was let in
		}
	}
}

// listenUnix makes the socket, in the place of one that a dead process left. The
// kernel's lock on the data folder says that it is dead.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make socket folder: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for nbd clients: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect socket: %w", err), l.Close())
	}
	return l, nil
}
