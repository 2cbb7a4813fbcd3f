package rpc

import (
	"errors"
	"syscall"
)

// isResource tells a failed accept that a later one may survive.
func isResource(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
