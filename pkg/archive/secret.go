package archive

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"ashlar.dev/pkg/errs"
)

// Secret is the key of an archive. Nil: the archive is not encrypted. It is never printed.
type Secret struct {
	key [32]byte
	id  KeyID
}

// KeyID names a key without giving it away.
type KeyID [8]byte

func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

const saltSize, nonceSize, tagSize = 16, 12, 16

// Salt makes the key of one object or manifest another than that of all others.
type Salt [saltSize]byte

// NewSecret makes one of 32 random bytes.
func NewSecret(key []byte) (*Secret, error) {
	s := &Secret{}
	if copy(s.key[:], key) != len(s.key) || len(key) != len(s.key) {
		return nil, fmt.Errorf("key of an archive has %d bytes, want 32: %w", len(key), errs.ErrInvalid)
	}
	sum := sha256.Sum256(append([]byte("ashlar archive key"), key...))
	copy(s.id[:], sum[:])
	return s, nil
}

// ParseSecret reads what a file or a command gives: 64 hexadecimal digits.
func ParseSecret(text []byte) (*Secret, error) {
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("key of an archive: want 64 hexadecimal digits, as of openssl rand -hex 32: %w", errs.ErrInvalid)
	}
	return NewSecret(key)
}

// String keeps the key out of logs.
func (s *Secret) String() string {
	if s == nil {
		return "no key"
	}
	return "key " + s.id.String()
}

// GoString does, too.
func (s *Secret) GoString() string { return s.String() }

// ID names it; zero for no key.
func (s *Secret) ID() KeyID {
	if s == nil {
		return KeyID{}
	}
	return s.id
}

// sealer seals and opens what lies in one object or manifest.
type sealer struct{ aead cipher.AEAD }

// of derives the sealer for a salt; nil without a key.
func (s *Secret) of(salt Salt, what string) *sealer {
	if s == nil {
		return nil
	}
	key, err := hkdf.Key(sha256.New, s.key[:], salt[:], "ashlar archive "+what, 32)
	if err != nil {
		panic("archive: derive a key: " + err.Error()) // 32 bytes can always be derived
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		panic("archive: " + err.Error())
	}
	aead, err := cipher.NewGCM(b)
	if err != nil {
		panic("archive: " + err.Error())
	}
	return &sealer{aead}
}

// nonce is the place at which something lies: each place is sealed once under a salt.
func nonce(offset uint64) []byte {
	var n [nonceSize]byte
	binary.LittleEndian.PutUint64(n[:], offset)
	return n[:]
}

// seal appends plain, sealed if there is a key, to dst; it lies at offset of its object.
func (s *sealer) seal(dst, plain []byte, offset uint64, about []byte) []byte {
	if s == nil {
		return append(dst, plain...)
	}
	return s.aead.Seal(dst, nonce(offset), plain, about)
}

// open undoes seal.
func (s *sealer) open(place string, sealed []byte, offset uint64, about []byte) ([]byte, error) {
	if s == nil {
		return sealed, nil
	}
	plain, err := s.aead.Open(nil, nonce(offset), sealed, about)
	if err != nil {
		return nil, fmt.Errorf("%s at %d: does not open: damaged, or of another object: %w", place, offset, errs.ErrCorrupt)
	}
	return plain, nil
}

// overhead is what seal adds.
func (s *sealer) overhead() int {
	if s == nil {
		return 0
	}
	return tagSize
}
