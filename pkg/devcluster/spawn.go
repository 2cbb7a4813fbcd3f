package devcluster

import (
	"context"
	"os/exec"
	"runtime"
	"syscall"

	"ashlar.dev/pkg/lifecycle"
)

// spawner starts children from one thread that lives as long as we do: the kernel sends
// the death signal when the thread that forked ends, not the process.
type spawner struct{ requests chan spawnRequest }

type spawnRequest struct {
	cmd  *exec.Cmd
	done chan error
}

func newSpawner(g *lifecycle.Group) *spawner {
	s := &spawner{requests: make(chan spawnRequest)}
	g.Go("spawner", func(ctx context.Context) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for {
			select {
			case r := <-s.requests:
				r.done <- r.cmd.Start()
			case <-ctx.Done():
				return nil
			}
		}
	})
	return s
}

// start starts cmd in a process group of its own, so that a Ctrl-C meant for us does not
// reach it before we have decided the order.
func (s *spawner) start(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r := spawnRequest{cmd: cmd, done: make(chan error, 1)}
	select {
	case s.requests <- r:
		return <-r.done
	case <-ctx.Done():
		return ctx.Err()
	}
}
