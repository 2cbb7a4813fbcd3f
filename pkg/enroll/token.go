package enroll

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

// Token is an invitation: which cluster, where it signs, and the secret that lets a host in.
// Only Text shows the secret; no log or error does.
type Token struct {
	ID        [8]byte
	CA        pki.Fingerprint
	Addresses []string // host:port
	secret    [secretBytes]byte
}

const (
	tokenPrefix    = "ashlar-join-"
	tokenVersion   = 1
	secretBytes    = 16
	tokenTextMax   = 2048
	addressesMax   = 8
	addressByteMax = 255
)

// NewToken draws a token for the cluster of this CA. Addresses may be set afterwards.
func NewToken(ca pki.Fingerprint) (Token, error) {
	t := Token{CA: ca}
	for _, b := range [][]byte{t.ID[:], t.secret[:]} {
		if _, err := rand.Read(b); err != nil {
			return Token{}, fmt.Errorf("draw token: %w", err)
		}
	}
	return t, nil
}

// Hash is what the cluster knows of the secret.
func (t Token) Hash() [sha256.Size]byte { return sha256.Sum256(t.secret[:]) }

// String hides the secret.
func (t Token) String() string { return fmt.Sprintf("token %x", t.ID) }

// Format hides it under every verb.
func (t Token) Format(f fmt.State, _ rune) { io.WriteString(f, t.String()) }

// LogValue hides it.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Text is the whole token, for the person who invites. Whoever reads it may join.
func (t Token) Text() string {
	b := append([]byte{tokenVersion}, t.ID[:]...)
	b = append(append(b, t.secret[:]...), t.CA[:]...)
	b = append(b, byte(len(t.Addresses)))
	for _, a := range t.Addresses {
		b = append(append(b, byte(len(a))), a...)
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(binary.LittleEndian.AppendUint32(b, codec.CRC(b)))
}

// ParseToken reads what Text wrote. An error does not quote it.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(text) > tokenTextMax {
		return Token{}, fmt.Errorf("this is no join token: it begins with %s and has no more than %d characters: %w", tokenPrefix, tokenTextMax, errs.ErrInvalid)
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || len(b) < 4 || codec.CRC(b[:len(b)-4]) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return Token{}, fmt.Errorf("the join token is damaged; copy all of it: %w", errs.ErrInvalid)
	}
	r := codec.NewReader("token", b[:len(b)-4])
	if v := r.U8(); v != tokenVersion {
		return Token{}, fmt.Errorf("join token of version %d: this ashlar is too old for it: %w", v, errs.ErrInvalid)
	}
	var t Token
	r.Fill(t.ID[:])
	r.Fill(t.secret[:])
	r.Fill(t.CA[:])
	n := int(r.U8())
	for i := 0; i < n && r.Err() == nil; i++ {
		t.Addresses = append(t.Addresses, string(r.Bytes(int(r.U8()))))
	}
	r.End()
	if r.Err() != nil || n == 0 || n > addressesMax {
		return Token{}, fmt.Errorf("the join token is damaged; copy all of it: %w", errs.ErrInvalid)
	}
	return t, nil
}
