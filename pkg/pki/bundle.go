package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// String shows a fingerprint's first bytes, enough to tell the few CAs of a cluster apart.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:8]) }

// CAInfo is what a CA's certificate says.
type CAInfo struct {
	Fingerprint Fingerprint
	Cluster     string
	DER         []byte
	NotAfter    time.Time
}

// ReadBundle reads the CAs of a bundle in PEM.
func ReadBundle(data []byte) ([]CAInfo, error) {
	cas, err := parseBundle(data)
	if err != nil {
		return nil, err
	}
	return infos(cas), nil
}

// ReadCAs reads CAs in DER.
func ReadCAs(ders [][]byte) ([]CAInfo, error) {
	var cas []*x509.Certificate
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read CA certificate: %w: %w", errs.ErrInvalid, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("%s is no certificate of a CA: %w", cert.Subject.CommonName, errs.ErrInvalid)
		}
		cas = append(cas, cert)
	}
	return infos(cas), nil
}

func infos(cas []*x509.Certificate) []CAInfo {
	var out []CAInfo
	for _, c := range cas {
		i := CAInfo{Fingerprint: fingerprint(c), DER: c.Raw, NotAfter: c.NotAfter}
		if len(c.Subject.Organization) == 1 {
			i.Cluster = c.Subject.Organization[0]
		}
		out = append(out, i)
	}
	return out
}

// Bundle writes CAs in PEM, in their order.
func Bundle(ders [][]byte) []byte {
	var b bytes.Buffer
	for _, der := range ders {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return b.Bytes()
}

// HashOf is the TrustHash of who trusts these CAs.
func HashOf(ders [][]byte) (out [sha256.Size]byte) {
	h := sha256.New()
	for _, der := range ders {
		h.Write(der) // never fails
	}
	copy(out[:], h.Sum(nil))
	return out
}

// Fingerprint is the CA's own.
func (ca *CA) Fingerprint() Fingerprint { return fingerprint(ca.cert) }

// DER is the CA's own certificate.
func (ca *CA) DER() []byte { return bytes.Clone(ca.cert.Raw) }

// NotAfter is when the CA ends, and all that it signed with it.
func (ca *CA) NotAfter() time.Time { return ca.cert.NotAfter }

// LoadCAs reads the CA of a folder and those in folders under it, one each, which came
// later. There is one at least.
func LoadCAs(c clock.Clock, dir string) ([]*CA, error) {
	var out []*CA
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("load CAs: %w", err)
	}
	folders := []string{dir}
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, filepath.Join(dir, e.Name()))
		}
	}
	for _, f := range folders {
		if _, err := os.Lstat(filepath.Join(f, CAKeyFile)); errors.Is(err, os.ErrNotExist) {
			continue // it was dropped, or is not whole: the key comes first
		}
		ca, err := LoadCA(c, f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, ca)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("load CAs: %s has no %s with %s: %w", dir, CAKeyFile, CACertFile, errs.ErrNotFound)
	}
	return out, nil
}

// DropCA destroys the key of a CA that nobody trusts any more, wherever LoadCAs finds it.
func DropCA(c clock.Clock, dir string, which Fingerprint) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("drop CA: %w", err)
	}
	folders := []string{dir}
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, filepath.Join(dir, e.Name()))
		}
	}
	for _, f := range folders {
		ca, err := LoadCA(c, f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("drop CA: %w", err)
		}
		if ca.Fingerprint() != which {
			continue
		}
		if err := os.Remove(filepath.Join(f, CAKeyFile)); err != nil {
			return fmt.Errorf("drop CA: %w", err)
		}
	}
	return nil
}
