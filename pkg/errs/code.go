package errs

import (
	"errors"
	"fmt"
)

// Code is an error class on the wire. Values are part of every protocol: never renumber.
type Code uint16

// The codes. OK is zero; Unknown stands for an error of no class.
const (
	OK Code = iota
	Unknown
	NotFound
	Exists
	StaleEpoch
	Conflict
	CorruptData
	NoSpace
	Unavailable
	Invalid
	Denied
	Closed
	Timeout
	codeEnd
)

var classes = [codeEnd]error{
	NotFound: ErrNotFound, Exists: ErrExists, StaleEpoch: ErrStaleEpoch, Conflict: ErrConflict,
	CorruptData: ErrCorrupt, NoSpace: ErrNoSpace, Unavailable: ErrUnavailable, Invalid: ErrInvalid,
	Denied: ErrDenied, Closed: ErrClosed, Timeout: ErrTimeout,
}

// CodeOf gives the class of err for the wire: OK for nil, Unknown for an error of no class.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	for code, class := range classes {
		if class != nil && errors.Is(err, class) {
			return Code(code)
		}
	}
	return Unknown
}

// FromCode is the error a peer reported, of its class, with the peer's text. OK gives nil.
func FromCode(code Code, text string) error {
	if code == OK {
		return nil
	}
	if code >= codeEnd || classes[code] == nil {
		return fmt.Errorf("peer reports: %s", text)
	}
	if text == "" {
		return classes[code]
	}
	return &remote{class: classes[code], text: text}
}

// remote is an error that crossed the wire; its text already names the class.
type remote struct {
	class error
	text  string
}

func (r *remote) Error() string { return r.text }
func (r *remote) Unwrap() error { return r.class }
