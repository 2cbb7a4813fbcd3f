package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"ashlar.dev/pkg/errs"
)

// Role is what a certificate's holder is. It is part of the certificate: never rename.
type Role string

// The roles.
const (
	RoleMetad     Role = "metad"     // member of the metadata group
	RoleBlockd    Role = "blockd"    // storage node or exporter
	RoleSnapshotd Role = "snapshotd" // archives snapshots: reads all of them, and changes nothing
	RoleOperator  Role = "operator"  // a person or program with the whole API, such as the CLI
	RoleNBD       Role = "nbd"       // an NBD client: disks only, and only those listed
)

// Roles are all of them.
var Roles = []Role{RoleMetad, RoleBlockd, RoleSnapshotd, RoleOperator, RoleNBD}

// serves tells whether holders of the role accept connections.
func (r Role) serves() bool { return r == RoleMetad || r == RoleBlockd }

// AllDisks as a disk name in a certificate stands for every disk.
const AllDisks = "*"

const (
	uriScheme = "ashlar"
	diskPart  = "disk"
)

// Identity is who a verified certificate says its holder is.
type Identity struct {
	Cluster string
	Role    Role
	Name    string
	Disks   []string // names or ids of disks an NBD client may open
}

// String is the identity's URI.
func (i Identity) String() string { return i.uri(string(i.Role), i.Name).String() }

// MayOpen tells whether the holder may do I/O on a disk known by any of these names.
// blockd proxies for its peers and operators may everything.
func (i Identity) MayOpen(diskNames ...string) bool {
	switch i.Role {
	case RoleOperator, RoleBlockd:
		return true
	case RoleNBD:
		return slices.ContainsFunc(i.Disks, func(d string) bool { return d == AllDisks || slices.Contains(diskNames, d) })
	}
	return false
}

func (i Identity) uri(kind, name string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: i.Cluster, Path: "/" + kind + "/" + name}
}

func (i Identity) uris() []*url.URL {
	out := []*url.URL{i.uri(string(i.Role), i.Name)}
	for _, d := range i.Disks {
		out = append(out, i.uri(diskPart, d))
	}
	return out
}

// nameBytesMax bounds every part of an identity.
const nameBytesMax = 128

func (i Identity) validate() error {
	if !slices.Contains(Roles, i.Role) {
		return fmt.Errorf("role %q is not one of %v: %w", i.Role, Roles, errs.ErrInvalid)
	}
	if len(i.Disks) > 0 && i.Role != RoleNBD {
		return fmt.Errorf("disks are listed for role nbd only, not for %s: %w", i.Role, errs.ErrInvalid)
	}
	for what, name := range map[string]string{"cluster": i.Cluster, "name": i.Name} {
		if !plain(name) {
			return fmt.Errorf("%s %.40q: want letters, digits, '-', '_' and '.', at most %d: %w", what, name, nameBytesMax, errs.ErrInvalid)
		}
	}
	if i.Cluster != strings.ToLower(i.Cluster) {
		return fmt.Errorf("cluster %.40q: want lower case: %w", i.Cluster, errs.ErrInvalid)
	}
	for _, d := range i.Disks {
		if d != AllDisks && !plain(d) {
			return fmt.Errorf("disk %.40q: want a disk's name or id, or *: %w", d, errs.ErrInvalid)
		}
	}
	return nil
}

func plain(s string) bool {
	if s == "" || len(s) > nameBytesMax {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
	}) < 0
}

// PeerIdentity is who stands at the other end of a connection. It fails with ErrDenied
// unless the peer showed a certificate that was verified against the cluster's CA.
func PeerIdentity(state tls.ConnectionState) (Identity, error) {
	if len(state.PeerCertificates) == 0 || len(state.VerifiedChains) == 0 {
		return Identity{}, fmt.Errorf("identify peer: no verified certificate: %w", errs.ErrDenied)
	}
	return IdentityOf(state.PeerCertificates[0])
}

// RequireRole is PeerIdentity, refused with ErrDenied unless the role is among these.
func RequireRole(state tls.ConnectionState, roles ...Role) (Identity, error) {
	who, err := PeerIdentity(state)
	if err != nil {
		return Identity{}, err
	}
	if !slices.Contains(roles, who.Role) {
		return Identity{}, fmt.Errorf("peer %s: role is not one of %v: %w", who, roles, errs.ErrDenied)
	}
	return who, nil
}

// IdentityOf reads the URIs of a certificate: exactly one of a role, any number of disks,
// all of one cluster; anything else under our scheme is refused.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	var who Identity
	for _, u := range cert.URIs {
		if u.Scheme != uriScheme {
			continue
		}
		kind, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if !ok || who.Cluster != "" && who.Cluster != u.Host {
			return Identity{}, fmt.Errorf("identify peer: certificate names %.80q: %w", u, errs.ErrDenied)
		}
		who.Cluster = u.Host
		switch {
		case kind == diskPart:
			who.Disks = append(who.Disks, name)
		case who.Role == "":
			who.Role, who.Name = Role(kind), name
		default:
			return Identity{}, fmt.Errorf("identify peer: certificate names two roles: %w", errs.ErrDenied)
		}
	}
	if err := who.validate(); err != nil {
		return Identity{}, fmt.Errorf("identify peer: %w: %w", errs.ErrDenied, err)
	}
	return who, nil
}
