package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"ashlar.dev/metad/state"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// signer has the keys of CAs. They stay in one folder of this machine: the first CA lies in
// the folder itself, each later one in a folder under it.
type signer struct {
	dir     string // empty in tests: in memory only
	clock   clock.Clock
	cluster string

	mu  sync.Mutex
	cas []*pki.CA
}

func newSigner(c clock.Clock, cluster, dir string, given *pki.CA) (*signer, error) {
	x := &signer{dir: dir, clock: c, cluster: cluster, cas: []*pki.CA{given}}
	if given == nil {
		var err error
		if x.cas, err = pki.LoadCAs(c, dir); err != nil {
			return nil, err
		}
	}
	for _, ca := range x.cas {
		if ca.Cluster() != cluster {
			return nil, fmt.Errorf("a CA in %s is of cluster %s, this metad of %s: %w", dir, ca.Cluster(), cluster, errs.ErrInvalid)
		}
	}
	return x, nil
}

// find gives the CA of a fingerprint.
func (x *signer) find(f pki.Fingerprint) (*pki.CA, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, ca := range x.cas {
		if ca.Fingerprint() == f {
			return ca, nil
		}
	}
	return nil, fmt.Errorf("this metad does not have the key of the CA %s that signs now; copy its folder from the metad that made it: %w", f, errs.ErrUnavailable)
}

// makeNext gives a CA to follow the one that signs, made once: an answer that was lost, a
// change that was given up or a restart do not leave more and more keys lying about.
func (x *signer) makeNext(signs *pki.CA) (*pki.CA, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, ca := range x.cas {
		if ca.Fingerprint() != signs.Fingerprint() && !ca.NotAfter().Before(signs.NotAfter()) {
			return ca, nil
		}
	}
	ca, err := pki.NewCA(x.clock, x.cluster)
	if err != nil {
		return nil, err
	}
	if x.dir != "" {
		if err := ca.Save(filepath.Join(x.dir, ca.Fingerprint().String())); err != nil {
			return nil, err
		}
	}
	x.cas = append(x.cas, ca)
	return ca, nil
}

// drop destroys the key of a CA.
func (x *signer) drop(f pki.Fingerprint) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.dir != "" {
		if err := pki.DropCA(x.clock, x.dir, f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	x.cas = slices.DeleteFunc(x.cas, func(ca *pki.CA) bool { return ca.Fingerprint() == f })
	return nil
}

// before are the CAs that were made before the one that signs. Those made after it are
// for changes to come.
func (x *signer) before(signs *pki.CA) []pki.Fingerprint {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []pki.Fingerprint
	for _, ca := range x.cas {
		if ca.NotAfter().Before(signs.NotAfter()) {
			out = append(out, ca.Fingerprint())
		}
	}
	return out
}

// signs is the CA that signs for this cluster now, if this member has its key.
func (s *Server) signs() (*pki.CA, error) {
	if s.signer == nil {
		return nil, fmt.Errorf("this metad does not sign (join in its metad.yaml): %w", errs.ErrUnavailable)
	}
	return s.signer.find(s.signingCA())
}

// signingCA is the one that the cluster has agreed on, or, before it ever changed, the one
// of this member's own certificate.
func (s *Server) signingCA() pki.Fingerprint {
	if t := s.trust(); len(t.CAs) > 0 {
		if cas, err := pki.ReadCAs(t.CAs[:1]); err == nil {
			return cas[0].Fingerprint
		}
	}
	return s.creds.Issuer()
}

func (s *Server) trust() (t state.Trust) {
	s.node.View(func(m *state.Machine) { t = m.Trust() })
	return t
}
