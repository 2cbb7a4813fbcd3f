package pki

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
)

// Keeper keeps a process's certificate and the CAs that it trusts up to date while it runs:
// it renews the certificate before it ends or when the CA changes, takes the CAs that the
// cluster trusts, and reads the files again when somebody else has written them. Connections
// that stand are not touched. A Keeper is used by one goroutine.
type Keeper struct {
	Creds *Credentials
	Files Files
	Clock clock.Clock
	Log   *slog.Logger
	// Sign has a request signed (PKCS#10, DER) for the identity that the process has already.
	Sign func(ctx context.Context, csr []byte) (certPEM []byte, err error)

	seen    [3][]byte // the files as they were read or written last
	failed  time.Time // when a renewal failed last
	trouble string    // the last complaint, told once
}

// KeepEvery is the pause between two looks.
const KeepEvery = time.Second

// Of a certificate's life, renewal begins after renewNum/renewDen. What fails is tried
// again after renewRetry.
const (
	renewNum, renewDen = 2, 3
	renewRetry         = 30 * time.Second
)

// Step does what is due now. bundle are the CAs that the cluster trusts, in PEM, the one
// that signs first; empty: it has not said.
func (k *Keeper) Step(ctx context.Context, bundle []byte) {
	err := k.reread()
	if err == nil && len(bundle) > 0 {
		err = k.trust(bundle)
	}
	if err == nil && k.due() && k.Clock.Wall().Sub(k.failed).Abs() >= renewRetry {
		if err = k.Renew(ctx); err != nil {
			k.failed = k.Clock.Wall()
		}
	}
	switch {
	case err == nil || ctx.Err() != nil:
		k.trouble = ""
	case err.Error() != k.trouble:
		k.trouble = err.Error()
		k.Log.Warn("certificates are not kept up to date yet", "expires", k.Creds.Expires(), "err", err)
	}
}

// Refresh is Step for who waits for it: it takes the CAs, renews the certificate if it is
// due or at any rate, and says what failed.
func (k *Keeper) Refresh(ctx context.Context, bundle []byte, atAnyRate bool) error {
	if err := k.reread(); err != nil {
		return err
	}
	if len(bundle) > 0 {
		if err := k.trust(bundle); err != nil {
			return err
		}
	}
	if atAnyRate || k.due() {
		return k.Renew(ctx)
	}
	return nil
}

func (k *Keeper) paths() [3]string { return [3]string{k.Files.CA, k.Files.Cert, k.Files.Key} }

// reread takes files that somebody else has changed: another daemon of this host, or a person.
func (k *Keeper) reread() error {
	var now [3][]byte
	for i, path := range k.paths() {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read certificates again: %w", err)
		}
		now[i] = b
	}
	if k.seen[0] == nil {
		k.seen = now // they were loaded just before
		return nil
	}
	same := true
	for i := range now {
		same = same && bytes.Equal(now[i], k.seen[i])
	}
	if same {
		return nil
	}
	if err := k.Creds.Replace(now[0], Pair{CertPEM: now[1], KeyPEM: now[2]}); err != nil {
		return fmt.Errorf("take certificates from changed files: %w", err)
	}
	k.seen = now
	k.Log.Info("certificates read again", "expires", k.Creds.Expires(), "issuer", k.Creds.Issuer().String())
	return nil
}

// trust takes the CAs of the cluster. It is refused while the own certificate needs another:
// a process that drops the CA of its own certificate could speak to nobody.
func (k *Keeper) trust(bundle []byte) error {
	if bytes.Equal(bundle, k.seen[0]) {
		return nil
	}
	if err := k.Creds.Replace(bundle, Pair{CertPEM: k.seen[1], KeyPEM: k.seen[2]}); err != nil {
		return fmt.Errorf("trust the cluster's CAs: %w", err)
	}
	if err := config.WriteFile(k.Files.CA, bundle, 0o644); err != nil {
		return err
	}
	k.seen[0] = bytes.Clone(bundle)
	cas, err := ReadBundle(bundle)
	if err != nil {
		return err
	}
	k.Log.Info("the cluster's CAs changed", "trusted", len(cas), "signs", cas[0].Fingerprint.String())
	return nil
}

// due tells whether a new certificate is wanted: most of its life has passed, or another CA
// signs now.
func (k *Keeper) due() bool {
	m := k.Creds.now.Load()
	leaf := m.pair.Leaf
	if fingerprint(m.cas[0]) != fingerprint(last(m.chain)) {
		return true
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return !k.Clock.Wall().Before(leaf.NotBefore.Add(life / renewDen * renewNum))
}

// Renew has a new key signed and puts both in place: on disk first, so that a crash leaves
// one pair or the other, then in use.
func (k *Keeper) Renew(ctx context.Context) error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	self := k.Creds.Self()
	csr, err := NewRequest(key, self.Role, self.Name)
	if err != nil {
		return err
	}
	cert, err := k.Sign(ctx, csr)
	if err != nil {
		return fmt.Errorf("renew certificate of %s: %w", self, err)
	}
	caPEM, err := os.ReadFile(k.Files.CA)
	if err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	if err := k.Creds.Replace(caPEM, Pair{CertPEM: cert, KeyPEM: key}); err != nil {
		return fmt.Errorf("renew certificate of %s: %w", self, err)
	}
	err = config.WriteFile(k.Files.Key+nextKey, key, 0o600)
	if err == nil {
		err = config.WriteFile(k.Files.Cert, cert, 0o644)
	}
	if err == nil {
		err = os.Rename(k.Files.Key+nextKey, k.Files.Key)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(k.Files.Key))
	}
	if err != nil {
		return fmt.Errorf("keep renewed certificate: %w", err)
	}
	k.seen = [3][]byte{caPEM, cert, key}
	k.Log.Info("certificate renewed", "expires", k.Creds.Expires(), "issuer", k.Creds.Issuer().String())
	return nil
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Renewal is a request of a holder to go on being who it is: the certificate that it showed
// says role, name, hosts and disks; nothing of them can be asked for.
func Renewal(old *x509.Certificate) (Request, error) {
	who, err := IdentityOf(old)
	if err != nil {
		return Request{}, err
	}
	r := Request{Role: who.Role, Name: who.Name, Disks: who.Disks, Hosts: append([]string(nil), old.DNSNames...), Lifetime: old.NotAfter.Sub(old.NotBefore) - clockSkewMax}
	for _, ip := range old.IPAddresses {
		r.Hosts = append(r.Hosts, ip.String())
	}
	return r, nil
}
