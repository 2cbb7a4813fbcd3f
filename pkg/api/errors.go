package api

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ashlar.dev/pkg/errs"
)

// grpcCodes is the table of error classes. A class always comes back as itself, because
// it travels in the detail; the gRPC code is for strangers and for middle boxes.
var grpcCodes = map[errs.Code]codes.Code{
	errs.Unknown:     codes.Internal,
	errs.NotFound:    codes.NotFound,
	errs.Exists:      codes.AlreadyExists,
	errs.StaleEpoch:  codes.FailedPrecondition,
	errs.Conflict:    codes.Aborted,
	errs.CorruptData: codes.DataLoss,
	errs.NoSpace:     codes.ResourceExhausted,
	errs.Unavailable: codes.Unavailable,
	errs.Invalid:     codes.InvalidArgument,
	errs.Denied:      codes.PermissionDenied,
	errs.Closed:      codes.Unavailable,
	errs.Timeout:     codes.DeadlineExceeded,
}

// ToStatus is the gRPC form of err with d as its detail; d may be nil, its code is set
// here. A nil err gives nil.
func ToStatus(err error, d *ErrorDetail) error {
	if err == nil {
		return nil
	}
	if d == nil {
		d = &ErrorDetail{}
	}
	code := errs.CodeOf(err)
	if code == errs.Unknown && errors.Is(err, context.DeadlineExceeded) {
		code = errs.Timeout
	}
	d.Code = uint32(code)
	s := status.New(grpcCodes[code], err.Error())
	with, detailErr := s.WithDetails(d)
	if detailErr != nil {
		return s.Err() // cannot be but for an unencodable detail; the code alone still tells the class
	}
	return with.Err()
}

// FromStatus is the error of a gRPC call in our classes, with the detail, nil if the
// answer did not come from one of our servers. What never reached a server, or whose
// answer never came, is ErrUnavailable or, at the deadline, ErrTimeout.
func FromStatus(err error) (*ErrorDetail, error) {
	if err == nil {
		return nil, nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return nil, err
	}
	for _, x := range s.Details() {
		if d, ok := x.(*ErrorDetail); ok {
			return d, errs.FromCode(errs.Code(d.Code), s.Message())
		}
	}
	switch s.Code() {
	case codes.DeadlineExceeded:
		return nil, fmt.Errorf("%s: %w", s.Message(), errs.ErrTimeout)
	case codes.Canceled:
		return nil, fmt.Errorf("%s: %w", s.Message(), context.Canceled)
	case codes.Unimplemented, codes.InvalidArgument:
		return nil, fmt.Errorf("%s: %w", s.Message(), errs.ErrInvalid)
	case codes.PermissionDenied, codes.Unauthenticated:
		return nil, fmt.Errorf("%s: %w", s.Message(), errs.ErrDenied)
	}
	return nil, fmt.Errorf("%s: %w", s.Message(), errs.ErrUnavailable)
}
