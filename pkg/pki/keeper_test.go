package pki

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
)

// keeping is a process with files, kept by a Keeper, in a world whose clock the test moves.
type keeping struct {
	*world
	dir    string
	keeper *Keeper
	signs  *CA
	asked  int
	refuse error
	log    bytes.Buffer
}

func newKeeping(t *testing.T) *keeping {
	w := newWorld(t)
	k := &keeping{world: w, dir: t.TempDir(), signs: w.ca}
	pair, err := w.ca.Issue(Request{Role: RoleBlockd, Name: "b1", Hosts: []string{"localhost"}, Lifetime: 90 * 24 * time.Hour})
	k.must(err)
	k.must(pair.Save(k.dir, "b1"))
	k.must(os.WriteFile(filepath.Join(k.dir, CACertFile), w.ca.CertPEM(), 0o644))
	files := Files{CA: filepath.Join(k.dir, CACertFile), Cert: filepath.Join(k.dir, "b1.crt"), Key: filepath.Join(k.dir, "b1.key")}
	creds, err := Load(w.clock, files)
	k.must(err)
	k.keeper = &Keeper{Creds: creds, Files: files, Clock: w.clock, Log: slog.New(slog.NewTextHandler(&k.log, nil)), Sign: k.sign}
	return k
}

// sign is the cluster's side: it signs for who showed the certificate in force.
func (k *keeping) sign(_ context.Context, csr []byte) ([]byte, error) {
	k.asked++
	if k.refuse != nil {
		return nil, k.refuse
	}
	r, err := k.keeper.Creds.Own()
	if err != nil {
		return nil, err
	}
	return k.signs.Sign(csr, r)
}

func (k *keeping) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeping) step(cas ...*CA) {
	var ders [][]byte
	for _, ca := range cas {
		ders = append(ders, ca.DER())
	}
	k.keeper.Step(k.t.Context(), Bundle(ders))
}

const day = 24 * time.Hour

// Without this a cluster would stop a year after it was made, host by host: certificates are
// renewed when two thirds of their life have passed, tried again when that fails, and
// what was connected stays connected.
func TestCertificateIsRenewedBeforeItsEnd(t *testing.T) {
	k := newKeeping(t)
	server := k.keeper.Creds.Server(Expect{Roles: []Role{RoleOperator}})
	ops := k.credentials(k.ca, Request{Role: RoleOperator, Name: "o", Lifetime: 1000 * day})
	dial := ops.Dialer(Expect{Roles: []Role{RoleBlockd}, Name: "b1"})
	meets := func() {
		t.Helper()
		cfg := dial().Clone()
		cfg.ServerName = "localhost"
		if _, s, c := meet(server, cfg); s != nil || c != nil {
			t.Fatal(s, c)
		}
	}
	first := k.keeper.Creds.Expires()
	k.step()
	k.clock.Advance(55 * day)
	k.step()
	if k.asked != 0 {
		t.Fatal("renewed far too early")
	}
	meets()
	k.refuse = errs.ErrUnavailable
	k.clock.Advance(6 * day)
	for range 5 {
		k.step()
	}
	if k.asked != 1 || strings.Count(k.log.String(), "level=WARN") != 1 {
		t.Fatalf("asked %d times at once while nobody signs: %s", k.asked, k.log.String())
	}
	k.refuse = nil
	k.clock.Advance(renewRetry)
	k.step()
	if k.asked != 2 || !k.keeper.Creds.Expires().Equal(first.Add(61*day+renewRetry)) {
		t.Fatalf("asked %d times, expires %s", k.asked, k.keeper.Creds.Expires())
	}
	k.clock.Advance(50 * day) // the first one has ended long ago
	meets()                   // with the configuration made at first
	again, err := Load(k.clock, k.keeper.Files)
	k.must(err)
	if again.Self().String() != k.keeper.Creds.Self().String() || !again.Expires().Equal(k.keeper.Creds.Expires()) {
		t.Fatalf("on disk is %s until %s", again.Self(), again.Expires())
	}
	if fi, err := os.Stat(k.keeper.Files.Key); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(err, fi.Mode())
	}
}

// Without this a crash in the middle of a renewal would leave a key and a certificate that do
// not fit, and a daemon that never starts again.
func TestRenewalSurvivesACrashAtEveryStep(t *testing.T) {
	for _, crash := range []string{"before anything", "after the key", "after the certificate"} {
		t.Run(crash, func(t *testing.T) {
			k := newKeeping(t)
			f := k.keeper.Files
			key, err := NewKey()
			k.must(err)
			csr, err := NewRequest(key, RoleBlockd, "b1")
			k.must(err)
			cert, err := k.sign(t.Context(), csr)
			k.must(err)
			if crash != "before anything" {
				k.must(os.WriteFile(f.Key+nextKey, key, 0o600))
			}
			if crash == "after the certificate" {
				k.must(os.WriteFile(f.Cert, cert, 0o644))
			}
			for range 2 { // and once more, when it has been brought to its end
				if _, err := Load(k.clock, f); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// The whole change of a CA as one process sees it. At each step it speaks with who is a step
// behind or ahead; at the end the old CA opens nothing, not even to who was let in before.
func TestCAChangesUnderARunningProcess(t *testing.T) {
	k := newKeeping(t)
	k.clock.Advance(time.Second) // CAs of one second would be equally old
	next, err := NewCA(k.clock, "c-test")
	k.must(err)
	old := k.credentials(k.ca, Request{Role: RoleOperator, Name: "old"})
	oldDial := old.Dialer(Expect{Roles: []Role{RoleBlockd}})
	server := k.keeper.Creds.Server(Expect{Roles: []Role{RoleOperator}})
	meets := func(c func() *Credentials) error {
		cfg := c().Client(Expect{Roles: []Role{RoleBlockd}})
		cfg.ServerName = "localhost"
		_, s, cl := meet(server, cfg)
		return errors.Join(s, cl)
	}
	bundle := Bundle([][]byte{k.ca.DER(), next.DER()})
	stepped := func(ca *CA) func() *Credentials { // a peer who trusts both, with a certificate of ca
		return func() *Credentials {
			pair, err := ca.Issue(Request{Role: RoleOperator, Name: "p"})
			k.must(err)
			cr, err := NewCredentials(k.clock, bundle, pair)
			k.must(err)
			return cr
		}
	}
	k.step()
	if meets(stepped(next)) == nil {
		t.Fatal("a CA that nobody agreed on opens the door")
	}
	k.step(k.ca, next)
	if k.asked != 0 {
		t.Fatal("renewed before the next CA signs")
	}
	k.must(meets(stepped(k.ca)))
	k.must(meets(stepped(next)))
	k.must(meets(func() *Credentials { return old }))
	resumed := oldDial().Clone()
	resumed.ServerName = "localhost"
	if _, s, c := meet(server, resumed); s != nil || c != nil { // leaves a session to resume
		t.Fatal(s, c)
	}
	k.signs = next
	k.step(next, k.ca)
	if k.asked != 1 || k.keeper.Creds.Issuer() != next.Fingerprint() {
		t.Fatalf("asked %d times, has a certificate of %s", k.asked, k.keeper.Creds.Issuer())
	}
	k.must(meets(stepped(k.ca)))
	k.must(meets(stepped(next)))
	k.step(next)
	k.must(meets(stepped(next)))
	if err := meets(stepped(k.ca)); err == nil {
		t.Fatal("a certificate of the dropped CA opens the door")
	}
	if _, s, c := meet(server, resumed); s == nil && c == nil {
		t.Fatal("a session from before the change opens the door")
	}
	on, err := os.ReadFile(k.keeper.Files.CA)
	k.must(err)
	if cas, err := ReadBundle(on); err != nil || len(cas) != 1 || cas[0].Fingerprint != next.Fingerprint() {
		t.Fatalf("on disk: %v %v", cas, err)
	}
}

// A process that dropped the CA of its own certificate would be alone for ever.
func TestOwnCAIsNotDropped(t *testing.T) {
	k := newKeeping(t)
	k.clock.Advance(time.Second)
	next, err := NewCA(k.clock, "c-test")
	k.must(err)
	k.step()
	k.step(next)
	if k.keeper.Creds.Issuer() != k.ca.Fingerprint() || !strings.Contains(k.log.String(), "level=WARN") {
		t.Fatalf("it follows: %s", k.log.String())
	}
	other, err := NewCA(k.clock, "other")
	k.must(err)
	pair, err := other.Issue(Request{Role: RoleBlockd, Name: "b1", Hosts: []string{"localhost"}})
	k.must(err)
	if err := k.keeper.Creds.Replace(other.CertPEM(), pair); !errors.Is(err, errs.ErrInvalid) {
		t.Fatalf("became a host of another cluster: %v", err)
	}
}

// Files that a person or another daemon of the host changes are taken without a restart.
func TestChangedFilesAreRead(t *testing.T) {
	k := newKeeping(t)
	k.step()
	pair, err := k.ca.Issue(Request{Role: RoleBlockd, Name: "b1", Hosts: []string{"localhost"}, Lifetime: 200 * day})
	k.must(err)
	k.must(pair.Save(k.dir, "b1"))
	k.step()
	if want := k.clock.Wall().Add(200 * day); !k.keeper.Creds.Expires().Equal(want) {
		t.Fatalf("expires %s, want %s", k.keeper.Creds.Expires(), want)
	}
}

// A renewal makes nobody more than who it is: only the key of the request counts.
func TestRenewalGivesNothingElse(t *testing.T) {
	w := newWorld(t)
	pair, err := w.ca.Issue(Request{Role: RoleNBD, Name: "vm", Hosts: []string{"a.example", "10.0.0.1"}, Disks: []string{"d1"}, Lifetime: 30 * day})
	if err != nil {
		t.Fatal(err)
	}
	old, err := parseCert(pair.CertPEM)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Renewal(old)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewRequest(key, RoleOperator, "root")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := w.ca.Sign(csr, r)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	who, err := IdentityOf(cert)
	if err != nil || who.Role != RoleNBD || who.Name != "vm" || len(who.Disks) != 1 || who.Disks[0] != "d1" {
		t.Fatalf("certificate of %+v: %v", who, err)
	}
	if !sameHosts(cert, old) || !cert.NotAfter.Equal(old.NotAfter) {
		t.Fatalf("hosts %v %v, until %s", cert.DNSNames, cert.IPAddresses, cert.NotAfter)
	}
}

func sameHosts(a, b *x509.Certificate) bool {
	if len(a.DNSNames) != len(b.DNSNames) || len(a.IPAddresses) != len(b.IPAddresses) {
		return false
	}
	for i := range a.DNSNames {
		if a.DNSNames[i] != b.DNSNames[i] {
			return false
		}
	}
	for i := range a.IPAddresses {
		if !a.IPAddresses[i].Equal(b.IPAddresses[i]) {
			return false
		}
	}
	return true
}
