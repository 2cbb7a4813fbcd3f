package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode"

	"ashlar.dev/pkg/errs"
)

const (
	saidMax = 4 << 10 // bytes of what a command prints that are kept, the last ones
	lineMax = 200     // of its last line
)

// run is Options.Run for real. The command and what it starts end with ctx; the command itself, with us.
func run(ctx context.Context, argv []string, env ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second // for what it left behind with its output open
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	runtime.LockOSThread() // the kernel sends the death signal when the thread that forked ends
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return lastLine(said.b), nil
	case ctx.Err() != nil:
		return lastLine(said.b), ctx.Err()
	case errors.As(err, &exit):
		return lastLine(said.b), fmt.Errorf("%s: %w", exit.ProcessState, errs.ErrUnavailable)
	}
	return lastLine(said.b), fmt.Errorf("%w: %w", errs.ErrUnavailable, err)
}

// tail keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-saidMax):]
	return len(b), nil
}

// lastLine is the last line that says something, as text that harms no terminal.
func lastLine(b []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	line := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, lines[len(lines)-1])
	return line[:min(len(line), lineMax)]
}
