// Package id has the typed identities of the system: 128-bit, time-ordered ids with
// the text forms users see (d-…, st-…), and the integers of the volume's log: epochs,
// sequence numbers, segments and locations. Everything here is a plain value.
package id

import (
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"ashlar.dev/pkg/errs"
)

// text is Crockford's base 32 in lower case: no i, l, o, u.
var text = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// Raw is the 128 bits under the typed ids: 48 bits of milliseconds, 80 random bits.
type Raw [16]byte

// NewRaw makes an id from a wall time and a source of randomness. Ids made later order later.
func NewRaw(now time.Time, random io.Reader) (Raw, error) {
	var r Raw
	if _, err := io.ReadFull(random, r[6:]); err != nil {
		return Raw{}, fmt.Errorf("make id: %w", err)
	}
	ms := uint64(now.UnixMilli())
	binary.BigEndian.PutUint16(r[0:], uint16(ms>>32))
	binary.BigEndian.PutUint32(r[2:], uint32(ms))
	return r, nil
}

func (r Raw) format(prefix string) string { return prefix + text.EncodeToString(r[:]) }

func parse(prefix, s string) (Raw, error) {
	var r Raw
	body, ok := strings.CutPrefix(s, prefix)
	if !ok || len(body) != 26 {
		return r, fmt.Errorf("parse id %q: want %s and 26 characters: %w", s, prefix, errs.ErrInvalid)
	}
	b, err := text.DecodeString(body)
	if err != nil {
		return r, fmt.Errorf("parse id %q: %v: %w", s, err, errs.ErrInvalid)
	}
	copy(r[:], b)
	if r.format(prefix) != s {
		return Raw{}, fmt.Errorf("parse id %q: not in its one spelling: %w", s, errs.ErrInvalid)
	}
	return r, nil
}

// Volume names a volume, and the disk that is its outside, for ever: never reused.
type Volume Raw

// String gives the user's form, "d-" and 26 characters.
func (v Volume) String() string { return Raw(v).format("d-") }

// IsZero tells the id that names nothing.
func (v Volume) IsZero() bool { return v == Volume{} }

// MarshalText and UnmarshalText use the form of String.
func (v Volume) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the form of String.
func (v *Volume) UnmarshalText(b []byte) (err error) { *v, err = ParseVolume(string(b)); return err }

// ParseVolume reads the form of String, and only that.
func ParseVolume(s string) (Volume, error) { r, err := parse("d-", s); return Volume(r), err }

// Store names one chunk store on one disk of one host.
type Store Raw

// String gives the form "st-" and 26 characters.
func (s Store) String() string { return Raw(s).format("st-") }

// IsZero tells the id that names nothing.
func (s Store) IsZero() bool { return s == Store{} }

// MarshalText uses the form of String.
func (s Store) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the form of String.
func (s *Store) UnmarshalText(b []byte) (err error) { *s, err = ParseStore(string(b)); return err }

// ParseStore reads the form of String, and only that.
func ParseStore(s string) (Store, error) { r, err := parse("st-", s); return Store(r), err }

// Incarnation is random and written when a store is formatted: the same id with
// another incarnation is another store's memory.
type Incarnation [16]byte

// String gives 32 hex digits.
func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// IsZero tells an unset incarnation.
func (i Incarnation) IsZero() bool { return i == Incarnation{} }

// ParseIncarnation reads 32 hex digits.
func ParseIncarnation(s string) (Incarnation, error) {
	var i Incarnation
	if len(s) != 32 || strings.ToLower(s) != s {
		return i, fmt.Errorf("parse incarnation %q: %w", s, errs.ErrInvalid)
	}
	if _, err := hex.Decode(i[:], []byte(s)); err != nil {
		return Incarnation{}, fmt.Errorf("parse incarnation %q: %w", s, errs.ErrInvalid)
	}
	return i, nil
}

// Host is the name of one blockd: what its certificate says and its configuration calls id.
type Host string

// HostMax bounds a host's name in bytes.
const HostMax = 64

// Holder is one life of one blockd process: the host and a number that rises at
// every start, persisted under the host's kernel lock before it is used. A holder
// with a higher number proves that all lower ones of its host are dead.
type Holder struct {
	Host   Host
	Number uint64
}

func (h Holder) String() string { return fmt.Sprintf("%s#%d", h.Host, h.Number) }

// Snapshot names a snapshot of a disk.
type Snapshot Raw

// String is the id in text, "s-…".
func (s Snapshot) String() string { return Raw(s).format("s-") }

// IsZero tells that s names nothing.
func (s Snapshot) IsZero() bool { return s == Snapshot{} }

// MarshalText is String, for JSON and logs.
func (s Snapshot) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSnapshot.
func (s *Snapshot) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSnapshot(string(b))
	return err
}

// ParseSnapshot reads what String wrote. Errors are of class errs.ErrInvalid.
func ParseSnapshot(s string) (Snapshot, error) { r, err := parse("s-", s); return Snapshot(r), err }

// Image names an image: what disks are made of.
type Image Raw

// String is the id in text, "m-…".
func (m Image) String() string { return Raw(m).format("m-") }

// IsZero tells that m names nothing.
func (m Image) IsZero() bool { return m == Image{} }

// MarshalText is String, for JSON and logs.
func (m Image) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText is ParseImage.
func (m *Image) UnmarshalText(b []byte) (err error) { *m, err = ParseImage(string(b)); return err }

// ParseImage reads what String wrote. Errors are of class errs.ErrInvalid.
func ParseImage(s string) (Image, error) { r, err := parse("m-", s); return Image(r), err }
