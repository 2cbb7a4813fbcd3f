package lifecycle

import (
	"errors"

	"ashlar.dev/pkg/errs"
)

// ExitCode is how a daemon ends that cannot serve: 2 where its configuration or its command line is wrong,
// so that starting it again is in vain, else 1.
func ExitCode(err error) int {
	if errors.Is(err, errs.ErrInvalid) {
		return 2
	}
	return 1
}
