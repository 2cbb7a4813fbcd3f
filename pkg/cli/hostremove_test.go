package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/errs"
)

// RemoveHost knows one host that may go, and one that may not.
func (f *fake) RemoveHost(_ context.Context, host string) error {
	switch host {
	case "gone":
		return nil
	case "b1":
		return fmt.Errorf("store st-1 is on host b1: %w", errs.ErrConflict)
	}
	return fmt.Errorf("host %s: %w", host, errs.ErrNotFound)
}

// Without this a refusal does not say why, or looks like success to a script.
func TestHostRemoveSaysWhyNot(t *testing.T) {
	for _, x := range []struct {
		host string
		code int
		says string
	}{{"gone", codeOK, "certificates are refused"}, {"b1", codeConflict, "store st-1 is on host b1"}, {"b9", codeNotFound, "ashlar host list"}} {
		term := newTerminal(t)
		code := term.run("host remove " + x.host)
		out := term.out.String() + term.err.String()
		if code != x.code || !strings.Contains(out, x.says) {
			t.Errorf("%s: exit code %d: %s", x.host, code, out)
		}
	}
}
