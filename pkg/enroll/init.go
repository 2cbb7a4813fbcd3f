package enroll

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Init makes a cluster whose first machine this is: its CA, whose key stays here, the
// certificates of this host and its operator, and the configs. The name is made unlike any
// other's; the cluster's id is drawn when its metad first leads.
func Init(c clock.Clock, name string, h Host) (cluster string, err error) {
	if !h.Has(pki.RoleMetad) || !h.Has(pki.RoleOperator) {
		return "", fmt.Errorf("the first host of a cluster has roles metad and operator: %w", errs.ErrInvalid)
	}
	if h.Has(pki.RoleNBD) {
		return "", fmt.Errorf("role nbd is handed out by a token: %w", errs.ErrInvalid)
	}
	if err := h.Validate(); err != nil {
		return "", err
	}
	if err := h.fresh(); err != nil {
		return "", err
	}
	if err := h.makeDir(); err != nil {
		return "", err
	}
	folder := filepath.Join(h.Dir, caFolder)
	if _, err := os.Lstat(filepath.Join(folder, pki.CAKeyFile)); err == nil {
		return "", fmt.Errorf("%s has the key of a CA and there are no configs beside it: move it away if it was of an attempt that broke off: %w", folder, errs.ErrExists)
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("look for a CA: %w", err)
	}
	var b [5]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("choose cluster name: %w", err)
	}
	cluster = name + "-" + hex.EncodeToString(b[:])
	ca, err := pki.NewCA(c, cluster)
	if err != nil {
		return "", err
	}
	for _, r := range h.Roles {
		pair, err := ca.Issue(pki.Request{Role: r, Name: h.Name, Hosts: h.reached()})
		if err != nil {
			return "", err
		}
		if err := pair.Save(filepath.Join(h.Dir, pkiFolder), string(r)); err != nil {
			return "", err
		}
	}
	if err := config.WriteFile(h.files(pki.RoleMetad).CA, ca.CertPEM(), 0o644); err != nil {
		return "", err
	}
	if err := ca.Save(folder); err != nil {
		return "", err
	}
	return cluster, h.writeConfigs(cluster, nil, true)
}
