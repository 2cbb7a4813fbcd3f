package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
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

// Credentials are what a process shows and what it trusts. Both can be replaced while it
// runs: connections that stand stay, new ones use what is new.
type Credentials struct {
	clock clock.Clock
	self  Identity
	now   *atomic.Pointer[material]
	bars  *atomic.Pointer[map[string]time.Time] // see Bar
}

// material is what is replaced as a whole.
type material struct {
	pool  *x509.CertPool
	cas   []*x509.Certificate // those trusted, the one that signs first
	caPEM []byte
	pair  tls.Certificate
	chain []*x509.Certificate // of pair, up to its CA
}

// ErrExpired is Load's when the process's own certificate has run out; a new one helps.
var ErrExpired = fmt.Errorf("certificate has expired: %w", errs.ErrDenied)

// Load reads the files. It fails if the key can be read by others, does not fit the
// certificate, or if the certificate is not of this CA, or has expired. A renewal that was
// cut off by a crash is brought to its end.
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
	keyPEM, err := readKey(f.Key, certPEM)
	if err != nil {
		return nil, fmt.Errorf("load key: %w", err)
	}
	cr, err := NewCredentials(c, caPEM, Pair{CertPEM: certPEM, KeyPEM: keyPEM})
	if err != nil {
		return nil, fmt.Errorf("load certificate %s: %w", f.Cert, err)
	}
	return cr, nil
}

// nextKey is where the key of a renewal lies until its certificate is in place.
const nextKey = ".next"

// readKey reads the key of a certificate. A renewal writes the new key beside the old one,
// then the certificate, then puts the key in its place: after a crash in between the new
// key is the one that fits.
func readKey(path string, certPEM []byte) (Secret, error) {
	keyPEM, err := readSecret(path)
	if err == nil {
		if _, err := tls.X509KeyPair(certPEM, keyPEM); err == nil {
			return keyPEM, nil
		}
	}
	next, nextErr := readSecret(path + nextKey)
	if nextErr != nil {
		return keyPEM, err // what does not fit is told by who pairs them
	}
	if _, nextErr := tls.X509KeyPair(certPEM, next); nextErr != nil {
		return keyPEM, err
	}
	if err := os.Rename(path+nextKey, path); err != nil {
		return nil, fmt.Errorf("put renewed key in its place: %w", err)
	}
	return next, nil
}

// NewCredentials is Load of PEM in memory.
func NewCredentials(c clock.Clock, caPEM []byte, pair Pair) (*Credentials, error) {
	m := &material{pool: x509.NewCertPool(), caPEM: bytes.Clone(caPEM)}
	var err error
	if m.cas, err = parseBundle(caPEM); err != nil {
		return nil, err
	}
	for _, ca := range m.cas {
		m.pool.AddCert(ca)
	}
	if m.pair, err = tls.X509KeyPair(pair.CertPEM, pair.KeyPEM); err != nil {
		return nil, fmt.Errorf("pair certificate and key: %w", err)
	}
	leaf := m.pair.Leaf
	if c.Wall().After(leaf.NotAfter) {
		return nil, fmt.Errorf("certificate of %s ended %s: %w", leaf.Subject.CommonName, leaf.NotAfter.Format(time.RFC3339), ErrExpired)
	}
	if m.chain, err = m.verify(leaf, c.Wall()); err != nil {
		return nil, fmt.Errorf("verify own certificate: %w", err)
	}
	self, err := IdentityOf(leaf)
	if err != nil {
		return nil, err
	}
	cr := &Credentials{clock: c, self: self, now: new(atomic.Pointer[material]), bars: new(atomic.Pointer[map[string]time.Time])}
	cr.now.Store(m)
	return cr, nil
}

// verify gives the chain of a certificate up to a CA that is trusted.
func (m *material) verify(leaf *x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: m.pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

// Replace puts another certificate, or other CAs, in the place of the present ones. It is
// refused unless they are of the same cluster, role and name: a process does not become another.
func (c *Credentials) Replace(caPEM []byte, pair Pair) error {
	next, err := NewCredentials(c.clock, caPEM, pair)
	if err != nil {
		return err
	}
	if a, b := c.self, next.self; a.Cluster != b.Cluster || a.Role != b.Role || a.Name != b.Name {
		return fmt.Errorf("the certificate is of %s, this is %s: %w", b, a, errs.ErrInvalid)
	}
	c.now.Store(next.now.Load())
	return nil
}

// Self is who this process is.
func (c *Credentials) Self() Identity { return c.self }

// Expires is when the own certificate does.
func (c *Credentials) Expires() time.Time { return c.now.Load().pair.Leaf.NotAfter }

// Issuer is the CA that signed the own certificate.
func (c *Credentials) Issuer() Fingerprint { return fingerprint(last(c.now.Load().chain)) }

// Own is what the own certificate says, for another of the same.
func (c *Credentials) Own() (Request, error) { return Renewal(c.now.Load().pair.Leaf) }

// Trusted are the CAs that are trusted, in PEM, the one that signs first.
func (c *Credentials) Trusted() []byte { return bytes.Clone(c.now.Load().caPEM) }

// TrustHash names what is trusted: equal bundles, equal hashes.
func (c *Credentials) TrustHash() [sha256.Size]byte { return bundleHash(c.now.Load().cas) }

func last(chain []*x509.Certificate) *x509.Certificate { return chain[len(chain)-1] }

func fingerprint(cert *x509.Certificate) Fingerprint { return sha256.Sum256(cert.Raw) }

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
// the handshake who is not expected. It follows Replace, connection by connection; therefore
// what a caller changes in it (but for ALPN, which a copy's GetConfigForClient may add) is lost.
func (c *Credentials) Server(e Expect) *tls.Config {
	cfg := c.serverNow(e)
	cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.serverNow(e), nil }
	return cfg
}

func (c *Credentials) serverNow(e Expect) *tls.Config {
	m := c.now.Load()
	cfg := c.base(m, e)
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.ClientCAs = m.pool
	return cfg
}

// Client is the configuration to dial with, as of now; who dials for longer takes Dialer.
// The server must prove both the host name dialled (set ServerName when dialling a unix
// socket) and that it is expected.
func (c *Credentials) Client(e Expect) *tls.Config {
	m := c.now.Load()
	cfg := c.base(m, e)
	cfg.RootCAs = m.pool
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(sessionsMax)
	return cfg
}

// Dialer gives, for each connection that is made, the configuration that holds then. The
// caller clones it before it changes it.
func (c *Credentials) Dialer(e Expect) func() *tls.Config {
	var mu sync.Mutex
	var of *material
	var cfg *tls.Config
	return func() *tls.Config {
		mu.Lock()
		defer mu.Unlock()
		if m := c.now.Load(); m != of {
			of, cfg = m, c.Client(e) // sessions of before are not resumed
		}
		return cfg
	}
}

// sessionsMax bounds the sessions a client keeps for resumption.
const sessionsMax = 64

func (c *Credentials) base(m *material, e Expect) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13, // and with it Go's own suites, AES-128-GCM first where the CPU has AES
		Certificates: []tls.Certificate{m.pair},
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
	if err := c.barred(who, state.PeerCertificates[0]); err != nil {
		return err
	}
	// Chains of a resumed session were verified once; time has passed since, and a CA may
	// have been dropped.
	leaf := state.PeerCertificates[0]
	if c.clock.Wall().After(leaf.NotAfter) {
		return fmt.Errorf("peer %s: certificate has expired: %w", who, errs.ErrDenied)
	}
	if state.DidResume {
		if _, err := c.now.Load().verify(leaf, c.clock.Wall()); err != nil {
			return fmt.Errorf("peer %s: %w: %w", who, errs.ErrDenied, err)
		}
	}
	return nil
}

// CAsMax bounds the CAs of a bundle: the one that signs, and another while they change.
const CAsMax = 4

// parseBundle reads the certificates of CAs in PEM: one at least, none twice.
func parseBundle(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(bytes.TrimSpace(data)) > 0 {
		cert, rest, err := nextCert(data)
		if err != nil {
			return nil, fmt.Errorf("read CA certificates: %w", err)
		}
		switch {
		case !cert.IsCA:
			return nil, fmt.Errorf("%s among the CA certificates is none of a CA: %w", cert.Subject.CommonName, errs.ErrInvalid)
		case len(out) == CAsMax:
			return nil, fmt.Errorf("more than %d CA certificates: %w", CAsMax, errs.ErrInvalid)
		}
		if !slices.ContainsFunc(out, cert.Equal) {
			out = append(out, cert)
		}
		data = rest
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no CA certificate: %w", errs.ErrInvalid)
	}
	return out, nil
}

func bundleHash(cas []*x509.Certificate) (out [sha256.Size]byte) {
	h := sha256.New()
	for _, ca := range cas {
		h.Write(ca.Raw) // never fails
	}
	copy(out[:], h.Sum(nil))
	return out
}

// errNoPEM is of data without a certificate.
var errNoPEM = errors.New("no PEM certificate in it")
