package nbd

import (
	"errors"
	"fmt"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/errs"
)

// Errno is an error of the wire.
type Errno uint32

// The errors that the protocol knows.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

var errnoTexts = map[Errno]string{
	EPERM: "operation not permitted", EIO: "input/output error", ENOMEM: "out of memory", EINVAL: "invalid argument",
	ENOSPC: "no space left", EOVERFLOW: "value too large", ENOTSUP: "not supported", ESHUTDOWN: "shutting down",
}

func (e Errno) Error() string {
	if text, ok := errnoTexts[e]; ok {
		return text
	}
	return fmt.Sprintf("error %d", uint32(e))
}

// Is makes an Errno of the wire match the class of errs that it stands for.
func (e Errno) Is(target error) bool {
	switch target {
	case errs.ErrDenied:
		return e == EPERM
	case errs.ErrInvalid:
		return e == EINVAL
	case errs.ErrNoSpace:
		return e == ENOSPC
	case errs.ErrClosed:
		return e == ESHUTDOWN
	}
	return false
}

var (
	// ErrNotSupported answers a write of zeros with FlagFastZero that would not be fast.
	ErrNotSupported = ENOTSUP
	// ErrHangup answers no request: the server closes the connection instead, so that a client
	// with reconnect tries again, here or at the disk's new owner, rather than report an error to its guest.
	// A device that was fenced or is moving away completes with it; errs.ErrStaleEpoch does the same.
	ErrHangup = errors.New("hang up")
	// ErrTLSRequired is Open's answer for an export that is served under TLS only.
	ErrTLSRequired = errors.New("the export is served under TLS only")
	// ErrProtocol is a violation of the protocol by the other side.
	ErrProtocol = errors.New("nbd protocol violated")
)

// errnoOf gives the error of the wire for an error of a device; hangup tells that there is none.
func errnoOf(err error) (e Errno, hangup bool) {
	switch {
	case err == nil:
		return 0, false
	case errors.As(err, &e):
		return e, false
	case errors.Is(err, ErrHangup), errors.Is(err, errs.ErrStaleEpoch):
		return 0, true
	case errors.Is(err, errs.ErrDenied):
		return EPERM, false
	case errors.Is(err, errs.ErrNoSpace):
		return ENOSPC, false
	case errors.Is(err, errs.ErrInvalid), errors.Is(err, block.ErrRange):
		return EINVAL, false
	case errors.Is(err, errs.ErrClosed):
		return ESHUTDOWN, false
	}
	return EIO, false
}
