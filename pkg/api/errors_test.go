package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ashlar.dev/pkg/errs"
)

// Without this an engine could take a fencing for an outage and retry under a dead epoch.
func TestEveryClassCrossesGRPC(t *testing.T) {
	for _, class := range []error{errs.ErrNotFound, errs.ErrExists, errs.ErrStaleEpoch, errs.ErrConflict, errs.ErrCorrupt,
		errs.ErrNoSpace, errs.ErrUnavailable, errs.ErrInvalid, errs.ErrDenied, errs.ErrClosed, errs.ErrTimeout} {
		sent := fmt.Errorf("do a thing: %w", class)
		d, got := FromStatus(ToStatus(sent, &ErrorDetail{LeaderApi: "here"}))
		if !errors.Is(got, class) || got.Error() != sent.Error() {
			t.Errorf("%v came back as %v", sent, got)
		}
		if d == nil || d.LeaderApi != "here" {
			t.Errorf("%v lost its detail", class)
		}
	}
	if len(grpcCodes) != int(errs.Timeout) {
		t.Errorf("%d classes in the table, %d there are", len(grpcCodes), errs.Timeout)
	}
}

// Errors of gRPC itself have no detail; callers still act on a class.
func TestTransportErrorsGetAClass(t *testing.T) {
	for code, want := range map[codes.Code]error{
		codes.Unavailable: errs.ErrUnavailable, codes.DeadlineExceeded: errs.ErrTimeout, codes.Canceled: context.Canceled,
		codes.PermissionDenied: errs.ErrDenied, codes.Unimplemented: errs.ErrInvalid, codes.Internal: errs.ErrUnavailable,
	} {
		if d, got := FromStatus(status.Error(code, "x")); !errors.Is(got, want) || d != nil {
			t.Errorf("%v came back as %v", code, got)
		}
	}
	if _, err := FromStatus(nil); err != nil || ToStatus(nil, nil) != nil {
		t.Error("no error became one")
	}
}
