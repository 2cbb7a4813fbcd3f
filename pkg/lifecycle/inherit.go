package lifecycle

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"ashlar.dev/pkg/errs"
)

// Bounds of what a service manager hands over: file descriptors 3 and up.
const (
	inheritedFirst = 3
	inheritedMax   = 64
)

// Inherited are the listening sockets that the service manager opened for this process and
// keeps open over its restarts, so that clients who come meanwhile wait instead of being
// refused. The protocol is that of systemd's socket units: LISTEN_FDS says how many there
// are, LISTEN_PID, if it is there, for which process. Call it once; later calls give none.
func Inherited() ([]net.Listener, error) {
	count, pid := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID")
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} { // not for our children
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("take over sockets: %w", err)
		}
	}
	if count == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > inheritedMax {
		return nil, fmt.Errorf("take over sockets: LISTEN_FDS=%q: %w", count, errs.ErrInvalid)
	}
	var out []net.Listener
	for fd := inheritedFirst; fd < inheritedFirst+n; fd++ {
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "inherited")
		l, err := net.FileListener(f) // has a descriptor of its own
		_ = f.Close()
		if err != nil {
			for _, l := range out {
				_ = l.Close() // the manager has them still
			}
			return nil, fmt.Errorf("take over socket %d: %w", fd, err)
		}
		out = append(out, l)
	}
	return out, nil
}
