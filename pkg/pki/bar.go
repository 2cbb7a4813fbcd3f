package pki

import (
	"crypto/x509"
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
)

// Bar has certificates refused by the name in them, whatever their role, if they were issued until
// a time: those of hosts that were removed. It takes the place of what was barred before.
// Connections that stand stay.
func (c *Credentials) Bar(until map[string]time.Time) { c.bars.Store(&until) }

func (c *Credentials) barred(who Identity, cert *x509.Certificate) error {
	bars := c.bars.Load()
	if bars == nil {
		return nil
	}
	return Barred(who, cert, (*bars)[who.Name])
}

// Barred is an error if the certificate was issued until a time; the zero time bars nobody. One
// that is issued later, to a machine that was given the name anew, is good.
func Barred(who Identity, cert *x509.Certificate, until time.Time) error {
	if until.IsZero() || cert.NotBefore.Add(clockSkewMax).After(until) {
		return nil
	}
	return fmt.Errorf("peer %s was removed from the cluster %s; a token made for its name lets a machine in under it again: %w", who, until.UTC().Format(time.RFC3339), errs.ErrDenied)
}
