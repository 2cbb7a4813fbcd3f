package state

import (
	"encoding/binary"
	"slices"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// Trust is which CAs the cluster trusts, and how far it is with changing from one to the
// next. The keys of CAs are not here. What the certificates say is for the server to check.
type Trust struct {
	Version uint64 // 0: it was never told, and is what each member's files say
	Phase   TrustPhase
	CAs     [][]byte // DER, the one that signs first
}

// TrustPhase is a step of changing the CA.
type TrustPhase uint8

// The phases. At rest one CA is trusted and signs.
const (
	TrustRest     TrustPhase = iota
	TrustSpread              // a second one is trusted, and signs nothing yet
	TrustSwitched            // the second one signs; the first is trusted until everybody has a certificate of the second
)

// Limits of Trust.
const (
	CAsMax     = 2
	CABytesMax = 4096
)

// ChangeTrust sets what follows Version.
type ChangeTrust struct {
	Version uint64
	Next    Trust // Version does not count
}

// Trust is the present one. The caller does not change it.
func (m *Machine) Trust() Trust { return m.trust }

func (m *Machine) changeTrust(c *ChangeTrust) Result {
	if c.Version != m.trust.Version {
		return refuse(errs.ErrConflict, "the CAs have changed meanwhile")
	}
	now, next := m.trust, c.Next
	for _, ca := range next.CAs {
		if len(ca) == 0 || len(ca) > CABytesMax {
			return refuse(errs.ErrInvalid, "a CA's certificate of %d bytes", len(ca))
		}
	}
	same := func(i, j int) bool { return len(now.CAs) > i && slices.Equal(now.CAs[i], next.CAs[j]) }
	ok := false
	switch next.Phase {
	case TrustSpread: // the one that signs stays the first
		ok = now.Phase == TrustRest && len(next.CAs) == 2 && !slices.Equal(next.CAs[0], next.CAs[1]) && (len(now.CAs) == 0 || same(0, 0))
	case TrustSwitched:
		ok = now.Phase == TrustSpread && len(next.CAs) == 2 && same(0, 1) && same(1, 0)
	case TrustRest: // given up before anything was signed, or finished: the first stays
		ok = now.Phase != TrustRest && len(next.CAs) == 1 && same(0, 0)
	}
	if !ok {
		return refuse(errs.ErrConflict, "from phase %d with %d CAs to phase %d with %d", now.Phase, len(now.CAs), next.Phase, len(next.CAs))
	}
	m.trust = Trust{Version: now.Version + 1, Phase: next.Phase, CAs: next.CAs}
	return Result{}
}

func (*ChangeTrust) kind() kind { return kindChangeTrust }

func (c *ChangeTrust) append(b []byte) []byte {
	return appendTrust(binary.AppendUvarint(b, c.Version), &c.Next)
}

func (c *ChangeTrust) read(r *codec.Reader) {
	c.Version = r.Uvarint()
	c.Next = readTrust(r)
	c.Next.Version = 0
}

func appendTrust(b []byte, t *Trust) []byte {
	b = binary.AppendUvarint(append(b, byte(t.Phase)), uint64(len(t.CAs)))
	for _, ca := range t.CAs {
		b = append(binary.AppendUvarint(b, uint64(len(ca))), ca...)
	}
	return b
}

func readTrust(r *codec.Reader) (t Trust) {
	if t.Phase = TrustPhase(r.U8()); t.Phase > TrustSwitched {
		r.Fail("phase of CAs", uint64(TrustSwitched), uint64(t.Phase))
	}
	for n := r.Count(CAsMax, 1); n > 0 && r.Err() == nil; n-- {
		t.CAs = append(t.CAs, slices.Clone(r.Bytes(r.Count(CABytesMax, 1))))
	}
	return t
}
