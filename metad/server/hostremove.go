package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/pki"
)

// hostsService takes hosts off the list.
type hostsService struct {
	api.UnimplementedHostsServer
	c *clusterService
}

// RemoveHost refuses what only this leader knows: that the host lives, that its metad is in the
// group; the state refuses what is committed.
func (x *hostsService) RemoveHost(ctx context.Context, q *api.RemoveHostRequest) (*api.RemoveHostReply, error) {
	s, host := x.c.s, id.Host(q.GetHost())
	if caller(ctx).Name == q.GetHost() {
		return nil, s.fail(fmt.Errorf("host %s is the one that asks, with a certificate that would be refused from then on; ask from another: %w", host, errs.ErrConflict))
	}
	for _, m := range s.node.Members() {
		if m.ID == q.GetHost() {
			return nil, s.fail(fmt.Errorf("the metad of host %s is in the group; ashlar metad remove %s: %w", host, host, errs.ErrConflict))
		}
	}
	command := &state.RemoveHost{Host: host, AtMS: s.clock.Wall().UnixMilli()}
	lives := false
	if err := x.c.look(ctx, func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
		h, known := m.Host(host)
		command.Number, lives = h.HolderNumber, known && l.HostUp(now, host)
	}); err != nil {
		return nil, err
	}
	if lives {
		return nil, s.fail(fmt.Errorf("the blockd of host %s runs, or did some seconds ago; stop it: %w", host, errs.ErrConflict))
	}
	if _, err := s.commit(ctx, command); err != nil {
		return nil, err
	}
	s.note(state.Info, "host_removed", aboutHost, q.GetHost(), caller(ctx).String(), "host %s is taken off the list, its certificates are refused", host)
	s.log.Info("host removed", "host", q.GetHost(), "by", caller(ctx).String())
	if r, err := s.ruling(); err == nil {
		r.refresh()
	}
	// Certificates know no more than the second that they were issued in: one for another machine of
	// that name must be of a later one.
	_ = s.clock.Sleep(ctx, time.Second-time.Duration(command.AtMS%1000)*time.Millisecond) // who asks and does not wait may try twice
	return &api.RemoveHostReply{}, nil
}

// refuseRemoved refuses who shows a certificate of a host from before it was removed.
func (s *Server) refuseRemoved(who pki.Identity, cert *x509.Certificate) error {
	var at int64
	s.node.View(func(m *state.Machine) { at = m.RemovedAt(id.Host(who.Name)) })
	if at == 0 {
		return nil
	}
	return pki.Barred(who, cert, time.UnixMilli(at))
}
