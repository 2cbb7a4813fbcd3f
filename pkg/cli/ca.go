package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"ashlar.dev/pkg/api"
	"ashlar.dev/pkg/errs"
)

// Identities is what concerns certificates while the cluster runs.
type Identities interface {
	ShowCA(ctx context.Context) (*api.CAReply, error)
	ChangeCA(ctx context.Context, step api.CAStep, clientsReady bool, without []string) (*api.CAReply, error)
	// TrustedCAs are those of the cluster, in PEM; none if it has never changed its CA.
	TrustedCAs(ctx context.Context) ([]byte, error)
	// Refresh takes the cluster's CAs into the caller's own files, and renews the caller's
	// certificate if it is due, or at any rate.
	Refresh(ctx context.Context, atAnyRate bool) (expires time.Time, err error)
	// OwnCAs are those that the caller trusts, in PEM.
	OwnCAs() []byte
}

type caCommands struct {
	Show   caShow   `cmd:"" help:"Show the CAs, who has certificates of which, and until when."`
	Bundle caBundle `cmd:"" help:"Print the CA certificates that clients must trust, in PEM."`
	Renew  caRenew  `cmd:"" help:"Renew your own certificate now. Daemons renew theirs by themselves."`
	Rotate caRotate `cmd:"" help:"Change the CA, step by step: begin, switch, finish. Nothing is interrupted."`
}

type caRotate struct {
	Begin  caBegin  `cmd:"" help:"Make another CA; everybody comes to trust it beside the present one."`
	Switch caSwitch `cmd:"" help:"Let it sign; everybody gets a certificate of it."`
	Finish caFinish `cmd:"" help:"Drop the one before it: its certificates are refused from then on, and its key is destroyed."`
	Abort  caAbort  `cmd:"" help:"Give the change up, as long as the new CA does not sign."`
}

// Help is the long form.
func (caRotate) Help() string {
	return `Each step waits, as long as --timeout allows, until everybody is ready for it, and says who is not.
Daemons follow by themselves within seconds. Operators elsewhere run ashlar ca renew after begin and after
switch. NBD clients that check certificates need the output of ashlar ca bundle as their ca-cert.pem
before switch, and a new certificate (ashlar host token --role nbd) before finish.`
}

// caView is the CAs in JSON.
type caView struct {
	Phase   string       `json:"phase"` // rest, spread or switched
	CAs     []caCertView `json:"cas"`
	Holders []holderView `json:"holders"`
}

type caCertView struct {
	Fingerprint string `json:"fingerprint"`
	Expires     string `json:"expires"`
	Signs       bool   `json:"signs"`
}

type holderView struct {
	Role      string `json:"role"`
	Name      string `json:"name"`
	Issuer    string `json:"issuer,omitempty"` // fingerprint of the CA; absent: not known
	TrustsAll bool   `json:"trustsAll"`
	Expires   string `json:"expires,omitempty"`
	Told      bool   `json:"told"` // by itself: a daemon
}

func viewCA(r *api.CAReply) caView {
	v := caView{Phase: r.Phase, CAs: []caCertView{}, Holders: []holderView{}}
	for _, c := range r.Cas {
		v.CAs = append(v.CAs, caCertView{c.Fingerprint, rfc3339(c.ExpiresUnixMs), c.Signs})
	}
	for _, h := range r.Holders {
		v.Holders = append(v.Holders, holderView{h.Role, h.Name, h.Issuer, h.TrustsAll, rfc3339(h.ExpiresUnixMs), h.Told})
	}
	return v
}

var phaseTexts = map[string]string{
	"rest":     "one CA, nothing changes",
	"spread":   "another CA is trusted and signs nothing yet; next: ashlar ca rotate switch",
	"switched": "the new CA signs, the one before it is still trusted; next: ashlar ca rotate finish",
}

func printCA(w io.Writer, v caView) {
	fmt.Fprintf(w, "%s\n", phaseTexts[v.Phase])
	for _, c := range v.CAs {
		what := "trusted"
		if c.Signs {
			what = "signs"
		}
		fmt.Fprintf(w, "  %s  %-7s  until %s\n", c.Fingerprint, what, c.Expires)
	}
	var rows [][]string
	for _, h := range v.Holders {
		trusts := "-"
		switch {
		case h.Told && h.Issuer == "":
			trusts = "does not answer"
		case h.Told && h.TrustsAll:
			trusts = "all"
		case h.Told:
			trusts = "not all yet"
		}
		rows = append(rows, []string{h.Role, h.Name, dash(h.Issuer), dash(h.Expires), trusts})
	}
	fmt.Fprintln(w)
	table(w, []string{"ROLE", "NAME", "CERTIFICATE OF", "UNTIL", "TRUSTS"}, rows)
}

type caShow struct{}

// Run is called by kong.
func (c *caShow) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		r, err := m.ShowCA(ctx)
		if err != nil {
			return err
		}
		v := viewCA(r)
		return s.show(v, func(w io.Writer) { printCA(w, v) })
	})
}

type caBundle struct{}

// Run is called by kong. It prints PEM whatever the output is.
func (c *caBundle) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		bundle, err := m.TrustedCAs(ctx)
		if err == nil && len(bundle) == 0 {
			bundle = m.OwnCAs()
		}
		if err == nil {
			_, err = s.Out.Write(bundle)
		}
		return err
	})
}

type caRenew struct{}

// Run is called by kong.
func (c *caRenew) Run(ctx context.Context, s *session) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		expires, err := m.Refresh(ctx, true)
		if errors.Is(err, errs.ErrUnavailable) {
			return &hinted{err, "the metad that has the CA's key must run; a cluster of ashlar dev renews when it starts"}
		}
		if err != nil {
			return err
		}
		return s.show(struct {
			Expires string `json:"expires"`
		}{rfc3339(expires.UnixMilli())}, func(w io.Writer) { fmt.Fprintf(w, "your certificate holds until %s\n", rfc3339(expires.UnixMilli())) })
	})
}

// others are the flags of steps that wait for everybody.
type others struct {
	ClientsReady bool     `help:"Operators and NBD clients elsewhere, whom the cluster cannot ask, have what they need."`
	Without      []string `help:"Leave this daemon behind: it has to join anew, by a token for its name." placeholder:"NAME"`
}

type caBegin struct{}

// Run is called by kong.
func (c *caBegin) Run(ctx context.Context, s *session) error {
	return s.changeCA(ctx, api.CAStep_CA_STEP_BEGIN, others{})
}

type caSwitch struct{ others }

// Run is called by kong.
func (c *caSwitch) Run(ctx context.Context, s *session) error {
	return s.changeCA(ctx, api.CAStep_CA_STEP_SWITCH, c.others)
}

type caFinish struct{ others }

// Run is called by kong.
func (c *caFinish) Run(ctx context.Context, s *session) error {
	return s.changeCA(ctx, api.CAStep_CA_STEP_FINISH, c.others)
}

type caAbort struct{}

// Run is called by kong.
func (c *caAbort) Run(ctx context.Context, s *session) error {
	return s.changeCA(ctx, api.CAStep_CA_STEP_ABORT, others{})
}

// changePoll is the pause between two tries while somebody is not ready.
const changePoll = 500 * time.Millisecond

// changeCA takes a step as soon as everybody is ready, and takes what it brings into the
// caller's own files: before it, for the step before may just have been taken, and after it.
func (s *session) changeCA(ctx context.Context, step api.CAStep, o others) error {
	return s.withMembers(ctx, func(ctx context.Context, m Members) error {
		if _, err := m.Refresh(ctx, false); err != nil {
			return err
		}
		for {
			r, err := m.ChangeCA(ctx, step, o.ClientsReady, o.Without)
			if err == nil {
				if _, err := m.Refresh(ctx, false); err != nil {
					return fmt.Errorf("the step is taken; take its certificates with ashlar ca renew: %w", err)
				}
				v := viewCA(r)
				return s.show(v, func(w io.Writer) { printCA(w, v) })
			}
			if !errors.Is(err, errs.ErrConflict) || !waits(ctx, m, step) || s.Clock.Sleep(ctx, changePoll) != nil {
				return notReady(err)
			}
		}
	})
}

// waits tells whether the step is the next one: then it is others who are not ready.
func waits(ctx context.Context, m Members, step api.CAStep) bool {
	r, err := m.ShowCA(ctx)
	return err == nil && (r.Phase == "spread" && step == api.CAStep_CA_STEP_SWITCH || r.Phase == "switched" && step == api.CAStep_CA_STEP_FINISH)
}

func notReady(err error) error {
	switch {
	case errors.Is(err, errs.ErrConflict):
		return &hinted{err, "see ashlar ca show; who cannot be asked is covered by --clients-ready, a daemon that is gone by --without NAME"}
	case errors.Is(err, errs.ErrUnavailable):
		return &hinted{err, "the metad that has the CA's key must run; a cluster of ashlar dev cannot change its CA"}
	}
	return err
}
