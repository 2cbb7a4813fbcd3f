package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
)

// Files is the tls section of every daemon's config.
type Files struct {
	// Certificate of the cluster's CA, in PEM.
	CA string `yaml:"ca"`
	// This process's certificate, in PEM.
	Cert string `yaml:"cert"`
	// Its private key, in PEM, mode 0600.
	Key string `yaml:"key"`
}

// Validate wants all three.
func (f *Files) Validate() error {
	for key, path := range map[string]string{"ca": f.CA, "cert": f.Cert, "key": f.Key} {
		if path == "" {
			return fmt.Errorf("%s is missing: every connection needs certificates (ashlar dev makes them): %w", key, errs.ErrInvalid)
		}
	}
	return nil
}

// Credentials are what a process shows and what it trusts.
type Credentials struct {
	clock clock.Clock
	pool  *x509.CertPool
	pair  tls.Certificate
	self  Identity
}

// ErrExpired is Load's when the process's own certificate has run out; a new one helps.
var ErrExpired = fmt.Errorf("certificate has expired: %w", errs.ErrDenied)

// Load reads the files. It fails if the key can be read by others, does not fit the
// certificate, or if the certificate is not of this CA, or has expired.
func Load(c clock.Clock, f Files) (*Credentials, error) {
	if err := f.Validate(); err != nil {
		return nil, fmt.Errorf("load certificates: %w", err)
	}
	caPEM, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("load CA certificate: %w", err)
	}
	certPEM, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	keyPEM, err := readSecret(f.Key)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	cr, err := NewCredentials(c, caPEM, Pair{CertPEM: certPEM, KeyPEM: keyPEM})
	if err != nil {
		return nil, fmt.Errorf("load certificate %s: %w", f.Cert, err)
	}
	return cr, nil
}

// NewCredentials is Load of PEM in memory.
func NewCredentials(c clock.Clock, caPEM []byte, pair Pair) (*Credentials, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("no CA certificate: %w", errs.ErrInvalid)
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return nil, fmt.Errorf("pair certificate and key: %w", err)
	}
	opts := x509.VerifyOptions{Roots: pool, CurrentTime: c.Wall(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if c.Wall().After(cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("certificate of %s ended %s: %w", cert.Leaf.Subject.CommonName, cert.Leaf.NotAfter.Format(time.RFC3339), ErrExpired)
	}
	if _, err := cert.Leaf.Verify(opts); err != nil {
		return nil, fmt.Errorf("verify own certificate: %w", err)
	}
	self, err := IdentityOf(cert.Leaf)
	if err != nil {
		return nil, err
	}
	return &Credentials{clock: c, pool: pool, pair: cert, self: self}, nil
}

// Self is who this process is.
func (c *Credentials) Self() Identity { return c.self }

// Expires is when the own certificate does.
func (c *Credentials) Expires() time.Time { return c.pair.Leaf.NotAfter }

// String hides the key.
func (c Credentials) String() string { return "pki.Credentials(" + c.self.String() + ")" }

// Format hides the key under every verb.
func (c Credentials) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// LogValue hides the key.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Expect says which peers are let in.
type Expect struct {
	Roles []Role // at least one
	Name  string // if set, this name alone
}

// Server is the configuration to accept with: it demands a certificate and refuses in
// the handshake who is not expected. The caller may add ALPN; it owns the result.
func (c *Credentials) Server(e Expect) *tls.Config {
	cfg := c.base(e)
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.ClientCAs = c.pool
	return cfg
}

// Client is the configuration to dial with. The server must prove both the host name
// dialled (set ServerName when dialling a unix socket) and that it is expected.
func (c *Credentials) Client(e Expect) *tls.Config {
	cfg := c.base(e)
	cfg.RootCAs = c.pool
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(sessionsMax)
	return cfg
}

// sessionsMax bounds the sessions a client keeps for resumption.
const sessionsMax = 64

func (c *Credentials) base(e Expect) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13, // and with it Go's own suites, AES-128-GCM first where the CPU has AES
		Certificates: []tls.Certificate{c.pair},
		Time:         c.clock.Wall,
		// Small first records save a web page some latency; they cost us system calls.
		DynamicRecordSizingDisabled: true,
		// Unlike VerifyPeerCertificate, it runs for resumed sessions too.
		VerifyConnection: func(state tls.ConnectionState) error { return c.check(state, e) },
	}
}

func (c *Credentials) check(state tls.ConnectionState, e Expect) error {
	who, err := RequireRole(state, e.Roles...)
	if err != nil {
		return err
	}
	if who.Cluster != c.self.Cluster {
		return fmt.Errorf("peer %s is of another cluster: %w", who, errs.ErrDenied)
	}
	if e.Name != "" && who.Name != e.Name {
		return fmt.Errorf("peer %s is not %s: %w", who, e.Name, errs.ErrDenied)
	}
	// Chains of a resumed session were verified once; time has passed since.
	if leaf := state.PeerCertificates[0]; c.clock.Wall().After(leaf.NotAfter) {
		return fmt.Errorf("peer %s: certificate has expired: %w", who, errs.ErrDenied)
	}
	return nil
}
