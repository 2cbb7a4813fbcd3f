package server

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"ashlar.dev/metad/reconcile"
	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// MakeCA makes the CA that is to follow, on a member that signs.
func (m *memberService) MakeCA(context.Context, *api.MakeCARequest) (*api.MakeCAReply, error) {
	now, err := m.s.signs()
	if err != nil {
		return nil, m.s.fail(&final{err})
	}
	next, err := m.s.signer.makeNext(now)
	if err != nil {
		return nil, m.s.fail(&final{err})
	}
	return &api.MakeCAReply{Signing: now.DER(), Next: next.DER()}, nil
}

// ShowCA tells of the CAs and who holds certificates of which.
func (m *membershipService) ShowCA(ctx context.Context, _ *api.ShowCARequest) (*api.CAReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	rep, err := m.s.showCA(ctx)
	if err != nil {
		return nil, m.s.fail(err)
	}
	return rep, nil
}

var phaseNames = map[state.TrustPhase]string{state.TrustRest: "rest", state.TrustSpread: "spread", state.TrustSwitched: "switched"}

// showCA looks at everybody. Before the CA was ever changed the one that signs is that of
// this member's own certificate.
func (s *Server) showCA(ctx context.Context) (*api.CAReply, error) {
	t := s.trust()
	ders := t.CAs
	if len(ders) == 0 {
		own, err := pki.ReadBundle(s.creds.Trusted())
		if err != nil {
			return nil, err
		}
		ders = [][]byte{own[0].DER}
	}
	cas, err := pki.ReadCAs(ders)
	if err != nil {
		return nil, err
	}
	rep := &api.CAReply{Phase: phaseNames[t.Phase]}
	for i, ca := range cas {
		rep.Cas = append(rep.Cas, &api.CACertificate{Fingerprint: ca.Fingerprint.String(), ExpiresUnixMs: ca.NotAfter.UnixMilli(), Signs: i == 0})
	}
	hash := pki.HashOf(ders)
	rep.Holders = s.holders(ctx, hash[:])
	return rep, nil
}

// holders are the daemons, by what they say themselves, and those people and clients whom
// this leader knows to have a certificate.
func (s *Server) holders(ctx context.Context, hash []byte) []*api.CertificateHolder {
	var out []*api.CertificateHolder
	daemon := func(role pki.Role, name string, b *cluster.Identity) {
		h := &api.CertificateHolder{Role: string(role), Name: name, Told: true}
		if b != nil {
			h.Issuer, h.ExpiresUnixMs, h.TrustsAll = pki.Fingerprint(b.Issuer).String(), b.Expires.UnixMilli(), bytes.Equal(b.TrustHash[:], hash)
		}
		out = append(out, h)
	}
	members := s.node.Members()
	said := s.describeAll(ctx, members)
	for _, m := range members {
		daemon(pki.RoleMetad, m.ID, said[m.ID].GetIdentity().Value())
	}
	if r := s.reign.Load(); r != nil {
		r.with(func(l *reconcile.Liveness, m *state.Machine, now time.Duration) {
			for _, h := range m.Hosts() {
				beat, _ := l.HostBeat(h.Host)
				if !l.HostUp(now, h.Host) {
					beat.Identity = nil
				}
				daemon(pki.RoleBlockd, string(h.Host), beat.Identity)
			}
		})
	}
	out = append(out, s.people()...)
	slices.SortFunc(out, func(a, b *api.CertificateHolder) int {
		return cmp.Or(strings.Compare(a.Role, b.Role), strings.Compare(a.Name, b.Name))
	})
	return out
}

// people are operators and NBD clients: those who have called, and those to whom a token
// handed a certificate that may still hold.
func (s *Server) people() []*api.CertificateHolder {
	var out []*api.CertificateHolder
	known := make(map[string]bool)
	issuers := make(map[string]string) // by the subject key of a CA
	if cas, err := pki.ReadCAs(s.trust().CAs); err == nil {
		for _, ca := range cas {
			if cert, err := x509.ParseCertificate(ca.DER); err == nil {
				issuers[string(cert.SubjectKeyId)] = ca.Fingerprint.String()
			}
		}
	}
	s.callers.each(func(name string, cert *x509.Certificate) {
		known[string(pki.RoleOperator)+" "+name] = true
		out = append(out, &api.CertificateHolder{Role: string(pki.RoleOperator), Name: name, Issuer: issuers[string(cert.AuthorityKeyId)], ExpiresUnixMs: cert.NotAfter.UnixMilli()})
	})
	s.node.View(func(m *state.Machine) {
		for _, t := range m.Tokens() {
			for _, u := range t.Uses {
				for _, role := range u.Roles {
					if key := role + " " + u.Name; (role == string(pki.RoleOperator) || role == string(pki.RoleNBD)) && !known[key] {
						known[key] = true
						out = append(out, &api.CertificateHolder{Role: role, Name: u.Name})
					}
				}
			}
		}
	})
	return out
}

// ChangeCA takes a step, if nothing and nobody is in its way.
func (m *membershipService) ChangeCA(ctx context.Context, q *api.ChangeCARequest) (*api.CAReply, error) {
	if err := m.ruling(ctx); err != nil {
		return nil, err
	}
	t := m.s.trust()
	next, err := m.nextTrust(ctx, q, t)
	if err != nil {
		return nil, m.s.fail(&final{err})
	}
	if _, err := m.s.commit(ctx, &state.ChangeTrust{Version: t.Version, Next: next}); err != nil {
		return nil, err
	}
	m.s.log.Info("the cluster's CA is being changed", "step", q.GetStep().String(), "by", caller(ctx).String())
	m.s.note(state.Warning, "ca_changes", aboutIdentity, "", caller(ctx).String(), "change of the CA: %s", stepTexts[q.GetStep()])
	return m.ShowCA(ctx, nil)
}

var stepTexts = map[api.CAStep]string{
	api.CAStep_CA_STEP_BEGIN: "another CA is trusted now", api.CAStep_CA_STEP_SWITCH: "it signs now, everybody gets a certificate of it",
	api.CAStep_CA_STEP_FINISH: "the one before it is trusted no more", api.CAStep_CA_STEP_ABORT: "given up",
}

// nextTrust is what a step comes to, or why it cannot be taken.
func (m *membershipService) nextTrust(ctx context.Context, q *api.ChangeCARequest, t state.Trust) (state.Trust, error) {
	wrong := func(want state.TrustPhase) error {
		if t.Phase == want {
			return nil
		}
		return fmt.Errorf("the change of the CA is at %q, this step follows %q: %w", phaseNames[t.Phase], phaseNames[want], errs.ErrConflict)
	}
	switch q.GetStep() {
	case api.CAStep_CA_STEP_BEGIN:
		if err := wrong(state.TrustRest); err != nil {
			return t, err
		}
		signing, next, err := m.makeCA(ctx)
		return state.Trust{Phase: state.TrustSpread, CAs: [][]byte{signing, next}}, err
	case api.CAStep_CA_STEP_SWITCH:
		if err := wrong(state.TrustSpread); err != nil {
			return t, err
		}
		_, next, err := m.makeCA(ctx)
		if err == nil && !bytes.Equal(next, t.CAs[1]) {
			err = fmt.Errorf("the key of the next CA is not there any more; give the change up and begin again: %w", errs.ErrConflict)
		}
		if err == nil {
			err = m.ready(ctx, q, false)
		}
		return state.Trust{Phase: state.TrustSwitched, CAs: [][]byte{t.CAs[1], t.CAs[0]}}, err
	case api.CAStep_CA_STEP_FINISH:
		if err := wrong(state.TrustSwitched); err != nil {
			return t, err
		}
		return state.Trust{Phase: state.TrustRest, CAs: t.CAs[:1]}, m.ready(ctx, q, true)
	case api.CAStep_CA_STEP_ABORT:
		return state.Trust{Phase: state.TrustRest, CAs: t.CAs[:min(1, len(t.CAs))]}, wrong(state.TrustSpread)
	}
	return t, fmt.Errorf("step %d of changing the CA: %w", q.GetStep(), errs.ErrInvalid)
}

// makeCA has a member that signs make the next CA, and checks what it gives.
func (m *membershipService) makeCA(ctx context.Context) (signing, next []byte, err error) {
	if _, own := m.s.signs(); own == nil {
		rep, err := (&memberService{s: m.s}).MakeCA(ctx, nil)
		if err != nil {
			return nil, nil, err
		}
		signing, next = rep.Signing, rep.Next
	} else if signing, next, err = m.s.askMembers.MakeCA(ctx); err != nil {
		return nil, nil, err
	}
	cas, err := pki.ReadCAs([][]byte{signing, next})
	if err != nil {
		return nil, nil, err
	}
	for _, ca := range cas {
		if ca.Cluster != m.s.creds.Self().Cluster {
			return nil, nil, fmt.Errorf("CA %s is of cluster %q: %w", ca.Fingerprint, ca.Cluster, errs.ErrInvalid)
		}
	}
	return signing, next, nil
}

// ready refuses a step while somebody would be left behind: before a CA signs everybody must
// trust it; before one is dropped nobody may need it.
func (m *membershipService) ready(ctx context.Context, q *api.ChangeCARequest, finish bool) error {
	rep, err := m.s.showCA(ctx)
	if err != nil {
		return err
	}
	var waiting []string
	for _, h := range rep.Holders {
		if why := blocks(h, rep.Cas[0].Fingerprint, finish, q.GetClientsReady()); why != "" && !slices.Contains(q.GetWithout(), h.Name) {
			waiting = append(waiting, fmt.Sprintf("%s %s %s", h.Role, h.Name, why))
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	text := strings.Join(waiting[:min(len(waiting), 8)], "; ")
	if more := len(waiting) - 8; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return fmt.Errorf("%s: %w", text, errs.ErrConflict)
}

// blocks says why somebody is not ready; empty: is.
func blocks(h *api.CertificateHolder, signs string, finish, clientsReady bool) string {
	switch {
	case h.Told && h.Issuer == "":
		return "does not answer"
	case h.Told && !h.TrustsAll:
		return "does not trust both CAs yet"
	case finish && h.Told && h.Issuer != signs:
		return "has a certificate of the CA that is to go"
	case h.Told:
		return ""
	case finish && h.Role == string(pki.RoleOperator) && h.Issuer != "" && h.Issuer != signs:
		return "has called with a certificate of the CA that is to go (ashlar ca renew)"
	case h.Issuer == signs && finish || clientsReady:
		return ""
	case finish:
		return "may have a certificate of the CA that is to go"
	case h.Role == string(pki.RoleOperator) && h.Issuer != "":
		return "" // it calls, so it can take the CAs by itself: the command does
	}
	return "may not trust the next CA yet (ashlar ca bundle)"
}
