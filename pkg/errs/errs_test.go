package errs

import (
	"errors"
	"fmt"
	"testing"
)

// Without this a peer's error would lose its class and callers would retry what must not be retried.
func TestClassSurvivesTheWire(t *testing.T) {
	for code, class := range classes {
		if class == nil {
			continue
		}
		err := fmt.Errorf("append to %s: %w", "x", class)
		got := FromCode(CodeOf(err), err.Error())
		if CodeOf(err) != Code(code) || !errors.Is(got, class) || got.Error() != err.Error() {
			t.Errorf("%v: came back as %v", err, got)
		}
	}
	if CodeOf(nil) != OK || FromCode(OK, "") != nil || CodeOf(errors.New("x")) != Unknown {
		t.Error("OK or Unknown mapped wrongly")
	}
	if FromCode(codeEnd+7, "later") == nil {
		t.Error("a code of a later version must still be an error")
	}
	if !errors.Is(&Corrupt{Place: "f"}, ErrCorrupt) {
		t.Error("Corrupt must match ErrCorrupt")
	}
}
