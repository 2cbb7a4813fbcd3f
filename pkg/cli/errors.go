package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ashlar.dev/pkg/errs"
)

// Exit codes. Scripts rely on them: never renumber.
const (
	codeOK          = 0
	codeFailed      = 1
	codeUsage       = 2
	codeNotFound    = 3
	codeUnavailable = 4
	codeConflict    = 5
	codeDenied      = 6
	codeNoSpace     = 7
)

// classes says what each class of error means to who typed the command: the code, and
// what to do next where the command itself did not say.
var classes = []struct {
	class error
	code  int
	hint  string
}{
	{errs.ErrNotFound, codeNotFound, ""},
	{errs.ErrInvalid, codeUsage, ""},
	{errs.ErrExists, codeConflict, "choose another name, or look at what is there with ashlar disk list"},
	{errs.ErrConflict, codeConflict, "look at it with ashlar disk show, then try again"},
	{errs.ErrStaleEpoch, codeConflict, "something changed meanwhile; try again"},
	{errs.ErrDenied, codeDenied, "this certificate may not do that; use the operator's (tls in cluster.yaml)"},
	{errs.ErrNoSpace, codeNoSpace, "free space by deleting disks, or add stores; see ashlar store list"},
	{context.Canceled, codeFailed, "what was asked of the cluster may go on there: look with ashlar status"},
	{errs.ErrTimeout, codeUnavailable, "the outcome is unknown; look with ashlar status, then try again (or give --timeout)"},
	{context.DeadlineExceeded, codeUnavailable, "the outcome is unknown; look with ashlar status, then try again (or give --timeout)"},
	{errs.ErrUnavailable, codeUnavailable, "is the cluster running? ashlar dev --data DIR starts it; a restarted one needs some seconds"},
	{errs.ErrClosed, codeUnavailable, "it is shutting down; try again when it is back"},
	{errs.ErrCorrupt, codeFailed, "do not delete anything; keep the logs and see ashlar status"},
}

// errInterrupted is of what was stopped from the keyboard, or by a signal, and has cleaned up behind itself.
var errInterrupted = errors.New("interrupted; nothing was left behind")

// cleaned is the error of what left nothing behind: that it was interrupted, if so, and not how that looked from inside.
func cleaned(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return errInterrupted
	}
	return err
}

// hinted is an error with the advice that fits it.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// report prints the error and what to do, and gives the exit code.
func report(w io.Writer, err error) int {
	code, hint := codeFailed, ""
	for _, c := range classes {
		if errors.Is(err, c.class) {
			code, hint = c.code, c.hint
			break
		}
	}
	var h *hinted
	if errors.As(err, &h) {
		hint = h.hint
	}
	var quiet *verdict
	if errors.As(err, &quiet) {
		return quiet.code
	}
	fmt.Fprintf(w, "ashlar: %v\n", err)
	if hint != "" {
		fmt.Fprintf(w, "  %s\n", hint)
	}
	return code
}

// verdict is an outcome that was printed already and only sets the exit code.
type verdict struct{ code int }

func (v *verdict) Error() string { return fmt.Sprintf("exit code %d", v.code) }
