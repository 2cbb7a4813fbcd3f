package server

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/lifecycle"
)

// drainSignal asks for a drain: disks are handed off, clients hung up on, stores go on
// serving others. Who stops a whole cluster sends it to every blockd first and waits, or
// the last ones to stop would have to pack their disks onto the few stores still up.
const drainSignal = syscall.SIGUSR1

// reloadSignal asks for the stores that the config file has more than this process.
const reloadSignal = syscall.SIGHUP

// serve waits for the end: of ctx, or of a part that must not end (the error says which).
// What signals ask for meanwhile is carried out.
func (s *server) serve(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.group.Context().Done():
			return context.Cause(s.group.Context())
		case x := <-signals:
			if x == reloadSignal {
				s.reload(ctx)
			} else {
				s.drain(ctx)
			}
		case gone := <-s.gone:
			s.release(gone)
		}
	}
}

func (s *server) drain(ctx context.Context) {
	s.log.Info("draining", "node", s.cfg.ID)
	_ = lifecycle.NotifyStatus("drained: stores serve, disks are served elsewhere") // without systemd there is nobody to tell
	hangup, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	s.exports.Lift()
	if err := s.nbd.Shutdown(hangup); err != nil {
		s.log.Warn("clients hung up on", "err", err)
	}
	handoff, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := s.exports.Close(handoff); err != nil && errs.CodeOf(err) != errs.Closed {
		s.log.Warn(leftBehind, "err", err)
		return
	}
	s.log.Info("drained", "node", s.cfg.ID)
}

const leftBehind = "drain left disks behind"

// leftBehind makes a warning of disks that could not be handed off because metad or stores are away,
// as they are when a whole machine or cluster stops: their next owners recover them, and the stop did not fail.
func (s *server) leftBehind(err error) error {
	if class := errs.CodeOf(err); class != errs.Unavailable && class != errs.Timeout && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	s.log.Warn(leftBehind, "err", err)
	return nil
}

// notifySignals begins before the start, because the default of both is to kill.
func notifySignals() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, drainSignal, reloadSignal)
	return c, func() { signal.Stop(c) }
}
