package devcluster

import (
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
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
	if p.Snapshotd != nil {
		wanted = append(wanted, pki.Request{Role: pki.RoleSnapshotd, Name: p.Snapshotd.ID})
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
	return l.ensureNBDClient(c, ca)
}

// nbdFolder has a certificate for NBD clients, all disks, under the names that libnbd
// (tls-certificates=DIR) and QEMU (tls-creds-x509,dir=DIR) look for.
func (l layout) nbdFolder() string { return filepath.Join(l.pki(), "nbd") }

func (l layout) ensureNBDClient(c clock.Clock, ca *pki.CA) error {
	dir := l.nbdFolder()
	files := pki.Files{CA: filepath.Join(dir, "ca-cert.pem"), Cert: filepath.Join(dir, "client-cert.pem"), Key: filepath.Join(dir, "client-key.pem")}
	cr, err := pki.Load(c, files)
	if err == nil && cr.Expires().After(c.Wall().Add(renewBefore)) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) && !expired(err) {
		return err
	}
	pair, err := ca.Issue(pki.Request{Role: pki.RoleNBD, Name: "nbd", Disks: []string{pki.AllDisks}})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return errors.Join(config.WriteFile(files.Key, pair.KeyPEM, 0o600), config.WriteFile(files.Cert, pair.CertPEM, 0o644),
		config.WriteFile(files.CA, ca.CertPEM(), 0o644))
}

func expired(err error) bool { return errors.Is(err, pki.ErrExpired) }
