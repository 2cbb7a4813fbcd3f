package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// Lifetimes when none is asked for. NotBefore lies some way back, for hosts whose
// clocks are behind.
const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	certLifetime = 365 * 24 * time.Hour
	clockSkewMax = 10 * time.Minute
)

// Names of the files of a CA in its folder.
const (
	CACertFile = "ca.crt"
	CAKeyFile  = "ca.key"
)

// Secret is bytes that never show in a log, an error or JSON.
type Secret []byte

// String hides.
func (Secret) String() string { return "[secret]" }

// Format hides under every verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[secret]") }

// MarshalText hides.
func (Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// LogValue hides.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// CA issues the certificates of one cluster. Whoever holds it can be anyone.
type CA struct {
	cluster string
	clock   clock.Clock
	cert    *x509.Certificate
	certPEM []byte
	key     *ecdsa.PrivateKey
	keyPEM  Secret
}

// Cluster is the name its certificates carry.
func (ca *CA) Cluster() string { return ca.cluster }

// CertPEM is the CA's own certificate, which every peer needs.
func (ca *CA) CertPEM() []byte { return append([]byte(nil), ca.certPEM...) }

// String hides the key.
func (ca CA) String() string { return "pki.CA(" + ca.cluster + ")" }

// Format hides the key under every verb: fmt would look into unexported fields past Secret.
func (ca CA) Format(f fmt.State, _ rune) { io.WriteString(f, ca.String()) }

// LogValue hides the key.
func (ca CA) LogValue() slog.Value { return slog.StringValue(ca.String()) }

// NewCA makes a CA. The name is lower-case letters, digits and '-', chosen so that no
// two clusters share it.
func NewCA(c clock.Clock, cluster string) (*CA, error) {
	if err := (Identity{Cluster: cluster, Role: RoleMetad, Name: "x"}).validate(); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	now := c.Wall()
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Ashlar CA of " + cluster, Organization: []string{cluster}},
		NotBefore:             now.Add(-clockSkewMax),
		NotAfter:              now.Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	cert, certPEM, err := sign(t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return &CA{cluster: cluster, clock: c, cert: cert, certPEM: certPEM, key: key, keyPEM: keyPEM}, nil
}

// Save writes the CA into dir, which it makes with mode 0700. It is durable when Save returns.
func (ca *CA) Save(dir string) error {
	return savePair(dir, CACertFile, CAKeyFile, ca.certPEM, ca.keyPEM)
}

// LoadCA reads what Save wrote.
func LoadCA(c clock.Clock, dir string) (*CA, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, CACertFile))
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load CA %s: %w", dir, err)
	}
	keyPEM, err := readSecret(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load CA %s: %w", dir, err)
	}
	if !cert.IsCA || len(cert.Subject.Organization) != 1 || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("load CA %s: certificate and key are not a CA of ours: %w", dir, errs.ErrInvalid)
	}
	return &CA{cluster: cert.Subject.Organization[0], clock: c, cert: cert, certPEM: certPEM, key: key, keyPEM: keyPEM}, nil
}

// Request is what a certificate is to say.
type Request struct {
	Role  Role
	Name  string
	Hosts []string // host names and IP addresses it is reached by; servers need one
	Disks []string // for role nbd
	// Lifetime is how long it holds; 0 is a year. It never outlives the CA.
	Lifetime time.Duration
}

// Pair is a certificate with its key, in PEM.
type Pair struct {
	CertPEM []byte
	KeyPEM  Secret
}

// Save writes the pair as dir/NAME.crt and dir/NAME.key, durable when Save returns.
func (p Pair) Save(dir, name string) error {
	return savePair(dir, name+".crt", name+".key", p.CertPEM, p.KeyPEM)
}

// Issue makes a key and signs a certificate for it.
func (ca *CA) Issue(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make key of %s: %w", r.Name, err)
	}
	certPEM, err := ca.certify(r, &key.PublicKey)
	if err != nil {
		return Pair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("issue certificate for %s: %w", r.Name, err)
	}
	return Pair{CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

// certify signs what r says for a key.
func (ca *CA) certify(r Request, key *ecdsa.PublicKey) ([]byte, error) {
	who := Identity{Cluster: ca.cluster, Role: r.Role, Name: r.Name, Disks: r.Disks}
	if err := who.validate(); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	if r.Role.serves() && len(r.Hosts) == 0 {
		return nil, fmt.Errorf("issue certificate for %s: a server needs the host names it is reached by: %w", who, errs.ErrInvalid)
	}
	if r.Lifetime == 0 {
		r.Lifetime = certLifetime
	}
	now := ca.clock.Wall()
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: r.Name, Organization: []string{ca.cluster}, OrganizationalUnit: []string{string(r.Role)}},
		NotBefore:             now.Add(-clockSkewMax),
		NotAfter:              now.Add(r.Lifetime),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:                  who.uris(),
	}
	if t.NotAfter.After(ca.cert.NotAfter) {
		t.NotAfter = ca.cert.NotAfter
	}
	if r.Role.serves() {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	_, certPEM, err := sign(t, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate for %s: %w", who, err)
	}
	return certPEM, nil
}

func sign(t, parent *x509.Certificate, key *ecdsa.PublicKey, signer *ecdsa.PrivateKey) (*x509.Certificate, []byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	t.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key, signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func encodeKey(key *ecdsa.PrivateKey) (Secret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseCert(data []byte) (*x509.Certificate, error) {
	cert, _, err := nextCert(data)
	return cert, err
}

// nextCert reads the first certificate and gives what comes after it.
func nextCert(data []byte) (*x509.Certificate, []byte, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("%w: %w", errNoPEM, errs.ErrInvalid)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return cert, rest, err
}

func parseKey(data Secret) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("no PEM key in it: %w", errs.ErrInvalid)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key is not ECDSA: %w", errs.ErrInvalid)
	}
	return ec, nil
}

// savePair writes the key first: a certificate without its key misleads.
func savePair(dir, certName, keyName string, cert []byte, key Secret) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder of keys: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("guard folder of keys: %w", err)
	}
	return errors.Join(
		config.WriteFile(filepath.Join(dir, keyName), key, 0o600),
		config.WriteFile(filepath.Join(dir, certName), cert, 0o644))
}

// LoadKey reads a private key in PEM. It refuses a file that others can read.
func LoadKey(path string) (Secret, error) {
	key, err := readSecret(path)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	return key, nil
}

// readSecret refuses a key file that others can read.
func readSecret(path string) (Secret, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key %s can be read by others (mode %04o): chmod 600 it, and think about who has read it: %w",
			path, fi.Mode().Perm(), errs.ErrDenied)
	}
	return os.ReadFile(path)
}
