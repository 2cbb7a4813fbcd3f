package devcluster

import (
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/pki"
)

// operatorName is who the CLI is in its certificate.
const operatorName = "operator"

// renewBefore is how long before its end a certificate is made anew at a start.
const renewBefore = 30 * 24 * time.Hour

// newClusterName is unlike any other cluster's.
func newClusterName() (string, error) {
	var b [5]byte
	if _, err := crand.Read(b[:]); err != nil {
		return "", fmt.Errorf("choose cluster name: %w", err)
	}
	return "dev-" + hex.EncodeToString(b[:]), nil
}

// ensureCertificates issues what is missing or about to expire.
func (l layout) ensureCertificates(c clock.Clock, ca *pki.CA, p *Plan) error {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	wanted := []pki.Request{{Role: pki.RoleOperator, Name: operatorName}}
	for _, m := range p.Metads {
		wanted = append(wanted, pki.Request{Role: pki.RoleMetad, Name: m.ID, Hosts: append([]string{m.ID}, hosts...)})
	}
	for _, b := range p.Blockds {
		wanted = append(wanted, pki.Request{Role: pki.RoleBlockd, Name: b.ID, Hosts: append([]string{b.ID}, hosts...)})
	}
	for _, r := range wanted {
		cr, err := pki.Load(c, l.tls(r.Name))
		if err == nil && cr.Expires().After(c.Wall().Add(renewBefore)) {
			continue
		}
		// A key that others could read must be seen by a person, not papered over.
		if err != nil && !errors.Is(err, os.ErrNotExist) && !expired(err) {
			return err
		}
		pair, err := ca.Issue(r)
		if err != nil {
			return err
		}
		if err := pair.Save(l.pki(), r.Name); err != nil {
			return err
		}
	}
	return nil
}

func expired(err error) bool { return errors.Is(err, pki.ErrExpired) }
