package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// How a host gets its first certificate: it makes its key itself and asks for a signature.
// It knows the CA by a fingerprint that came with its join token; the CA's side knows the
// host by the token.

// Fingerprint is the SHA-256 of a CA's certificate; who has it cannot be shown another CA.
type Fingerprint [sha256.Size]byte

// FingerprintOf reads a certificate in PEM.
func FingerprintOf(certPEM []byte) (Fingerprint, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint of a certificate: %w", err)
	}
	return sha256.Sum256(cert.Raw), nil
}

// NewKey makes a private key, in PEM. It never has to leave the host.
func NewKey() (Secret, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return encodeKey(k)
}

// NewRequest asks for a signature of a key's public half (PKCS#10, DER).
func NewRequest(key Secret, role Role, name string) ([]byte, error) {
	k, err := parseKey(key)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{string(role)}}}, k)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return csr, nil
}

// csrKey gives the key of a request whose sender has shown that it holds it.
func csrKey(csr []byte) (*ecdsa.PublicKey, error) {
	q, err := x509.ParseCertificateRequest(csr)
	if err == nil {
		err = q.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate request: %w: %w", errs.ErrInvalid, err)
	}
	key, ok := q.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("read certificate request: the key is not ECDSA P-256: %w", errs.ErrInvalid)
	}
	return key, nil
}

// KeyHash is over the keys of some requests, in order.
func KeyHash(csrs ...[]byte) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, c := range csrs {
		key, err := csrKey(c)
		if err != nil {
			return sum, err
		}
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return sum, fmt.Errorf("encode key: %w", err)
		}
		h.Write(der)
	}
	h.Sum(sum[:0])
	return sum, nil
}

// Sign makes the certificate that r describes for the key of a request. Whatever else the
// request says does not count.
func (ca *CA) Sign(csr []byte, r Request) ([]byte, error) {
	key, err := csrKey(csr)
	if err != nil {
		return nil, err
	}
	return ca.certify(r, key)
}

// JoinServer is the configuration of a port for hosts without certificates: it shows its
// own with the CA's behind it, and asks for none.
func (c *Credentials) JoinServer() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Time: c.clock.Wall, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		m := c.now.Load()
		pair := m.pair
		pair.Certificate = [][]byte{pair.Certificate[0], last(m.chain).Raw}
		return &pair, nil
	}}
}

// Pinned is the configuration to dial such a port with: the server must show a chain to the
// CA of this fingerprint, a certificate of role metad, and prove the address dialled.
func Pinned(c clock.Clock, ca Fingerprint, address string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q: want host:port: %w", address, errs.ErrInvalid)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: host, Time: c.Wall,
		InsecureSkipVerify: true, // VerifyConnection does it, from a root that is known by its fingerprint alone
		VerifyConnection:   func(state tls.ConnectionState) error { return verifyPinned(c, ca, host, state) },
	}, nil
}

func verifyPinned(c clock.Clock, ca Fingerprint, host string, state tls.ConnectionState) error {
	roots := x509.NewCertPool()
	found := false
	for _, cert := range state.PeerCertificates {
		if sha256.Sum256(cert.Raw) == ca && cert.IsCA {
			roots.AddCert(cert)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("the server is not of the cluster that made the token (another CA): %w", errs.ErrDenied)
	}
	leaf := state.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: c.Wall(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("verify server: %w: %w", errs.ErrDenied, err)
	}
	who, err := IdentityOf(leaf)
	if err != nil {
		return err
	}
	if who.Role != RoleMetad {
		return fmt.Errorf("peer %s: role is not metad: %w", who, errs.ErrDenied)
	}
	return nil
}
