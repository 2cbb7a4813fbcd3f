package state

import (
	"cmp"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Limits of who may join.
const (
	MembersMax    = 16 // addresses of metads that are remembered
	TokensMax     = 256
	TokenUsesMax  = 1024
	TokenRolesMax = 4
	// tokenKeptMS is how long a token that is of no use any more is shown, and refused by its own name.
	tokenKeptMS = 30 * 24 * 3600 * 1000
)

// Member is where a metad is reached. Who belongs to the group and who votes is Raft's to
// say; this is the address book beside it.
type Member struct {
	ID, API, Raft string
}

// TokenID names a join token; it is no secret.
type TokenID [8]byte

func (t TokenID) String() string { return hex.EncodeToString(t[:]) }

// Token lets hosts join. Of its secret only the hash is known.
type Token struct {
	ID        TokenID
	Hash      [32]byte
	Roles     []string // that it may hand out
	Name      string   // if set, for this name only
	UsesMax   uint32
	Uses      []TokenUse
	ExpiresMS int64
	By        string
	Revoked   bool
}

// TokenUse is one host that joined. The same use again is no other one.
type TokenUse struct {
	Name  string
	Roles []string
	Key   [32]byte // over the keys that were signed
	AtMS  int64
}

// Commands about who belongs to the cluster.
type (
	// SetMember remembers where a metad is reached.
	SetMember struct{ Member Member }
	// DropMember forgets it.
	DropMember struct{ ID string }
	// AddToken makes a join token known.
	AddToken struct {
		Token Token // without uses
		NowMS int64
	}
	// RevokeToken makes a token useless.
	RevokeToken struct{ ID TokenID }
	// UseToken takes one use, or says why not.
	UseToken struct {
		ID   TokenID
		Hash [32]byte
		Use  TokenUse
	}
)

// Members are the known addresses, by id.
func (m *Machine) Members() []Member {
	return slices.SortedFunc(maps.Values(m.members), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
}

// Member finds an address.
func (m *Machine) Member(id string) (Member, bool) {
	x, ok := m.members[id]
	return x, ok
}

// Tokens are all that are remembered, the useless ones too, by id.
func (m *Machine) Tokens() []*Token {
	return slices.SortedFunc(maps.Values(m.tokens), func(a, b *Token) int { return slices.Compare(a.ID[:], b.ID[:]) })
}

func (m *Machine) setMember(c *SetMember) Result {
	x := c.Member
	if !PlainName(x.ID, id.HostMax) || x.API == "" || x.Raft == "" || len(x.API) > AddressMax || len(x.Raft) > AddressMax {
		return refuse(errs.ErrInvalid, "member %q at %q and %q", x.ID, x.API, x.Raft)
	}
	if _, known := m.members[x.ID]; !known && len(m.members) >= MembersMax {
		return refuse(errs.ErrNoSpace, "there are %d members", len(m.members))
	}
	for _, y := range m.members {
		if y.ID != x.ID && (y.API == x.API || y.Raft == x.Raft) {
			return refuse(errs.ErrExists, "member %s has address %s or %s", y.ID, x.API, x.Raft)
		}
	}
	m.members[x.ID] = x
	return Result{}
}

func (m *Machine) dropMember(c *DropMember) Result {
	delete(m.members, c.ID)
	return Result{}
}

func (m *Machine) addToken(c *AddToken) Result {
	t := c.Token
	switch {
	case t.ID == TokenID{} || t.Hash == [32]byte{} || t.UsesMax == 0 || t.UsesMax > TokenUsesMax || t.ExpiresMS <= c.NowMS:
		return refuse(errs.ErrInvalid, "a join token needs 1 to %d uses and an end to come", TokenUsesMax)
	case !plainRoles(t.Roles) || t.Name != "" && !PlainName(t.Name, id.HostMax) || len(t.By) > NameMax:
		return refuse(errs.ErrInvalid, "join token for roles %q and name %q", t.Roles, t.Name)
	}
	if have := m.tokens[t.ID]; have != nil {
		if have.Hash == t.Hash {
			return Result{} // the answer was lost
		}
		return refuse(errs.ErrExists, "token %s", t.ID)
	}
	maps.DeleteFunc(m.tokens, func(_ TokenID, x *Token) bool { return x.ExpiresMS+tokenKeptMS < c.NowMS })
	if len(m.tokens) >= TokensMax {
		return refuse(errs.ErrNoSpace, "there are %d join tokens; revoked and used ones are forgotten %d days after their end", len(m.tokens), tokenKeptMS/86400000)
	}
	t.Uses, t.Revoked = nil, false
	m.tokens[t.ID] = &t
	return Result{}
}

// plainRoles: some, none twice. What they mean is for whoever signs to know.
func plainRoles(roles []string) bool {
	if len(roles) == 0 || len(roles) > TokenRolesMax {
		return false
	}
	for i, r := range roles {
		if !PlainName(r, NameMax) || slices.Contains(roles[:i], r) {
			return false
		}
	}
	return true
}

func (m *Machine) revokeToken(c *RevokeToken) Result {
	t := m.tokens[c.ID]
	if t == nil {
		return refuse(errs.ErrNotFound, "token %s", c.ID)
	}
	revoked := *t
	revoked.Revoked = true
	m.tokens[c.ID] = &revoked
	return Result{}
}

// useToken: every refusal that depends on the secret comes after the secret was checked,
// so that nobody learns about tokens by guessing.
func (m *Machine) useToken(c *UseToken) Result {
	t := m.tokens[c.ID]
	switch {
	case t == nil || subtle.ConstantTimeCompare(t.Hash[:], c.Hash[:]) != 1:
		return refuse(errs.ErrDenied, "this cluster knows no such join token")
	case !PlainName(c.Use.Name, id.HostMax) || !plainRoles(c.Use.Roles):
		return refuse(errs.ErrInvalid, "host %q in roles %q", c.Use.Name, c.Use.Roles)
	case t.Revoked:
		return refuse(errs.ErrDenied, "join token %s was revoked", t.ID)
	case c.Use.AtMS >= t.ExpiresMS:
		return refuse(errs.ErrDenied, "join token %s has expired", t.ID)
	}
	for _, u := range t.Uses {
		if u.Name == c.Use.Name && u.Key == c.Use.Key && slices.Equal(u.Roles, c.Use.Roles) {
			return Result{} // its answer was lost
		}
	}
	for _, r := range c.Use.Roles {
		if !slices.Contains(t.Roles, r) {
			return refuse(errs.ErrDenied, "join token %s is for %s, not for %s", t.ID, strings.Join(t.Roles, " and "), r)
		}
	}
	switch {
	case t.Name != "" && t.Name != c.Use.Name:
		return refuse(errs.ErrDenied, "join token %s is for another host than %s", t.ID, c.Use.Name)
	case t.Name == "" && m.taken(c.Use):
		return refuse(errs.ErrExists, "a host %s has a certificate; another needs a token made for that name", c.Use.Name)
	case len(t.Uses) >= int(t.UsesMax):
		return refuse(errs.ErrDenied, "join token %s is used up", t.ID)
	}
	used := *t
	used.Uses = append(slices.Clone(t.Uses), c.Use)
	m.tokens[c.ID] = &used
	return Result{}
}

// taken tells whether somebody goes by the name already: a token must not make its
// bearer one of those who are there.
func (m *Machine) taken(u TokenUse) bool {
	_, host := m.hosts[id.Host(u.Name)]
	_, member := m.members[u.Name]
	if host || member {
		return true
	}
	for _, t := range m.tokens {
		if slices.ContainsFunc(t.Uses, func(x TokenUse) bool { return x.Name == u.Name }) {
			return true
		}
	}
	return false
}

func appendMember(b []byte, x Member) []byte {
	return codec.AppendString(codec.AppendString(codec.AppendString(b, x.ID), x.API), x.Raft)
}

func readMember(r *codec.Reader) Member {
	return Member{ID: r.String(NameMax), API: r.String(AddressMax), Raft: r.String(AddressMax)}
}

func appendStrings(b []byte, s []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	for _, x := range s {
		b = codec.AppendString(b, x)
	}
	return b
}

func readStrings(r *codec.Reader, max int) []string {
	var out []string
	for n := r.Count(max, 1); n > 0; n-- {
		out = append(out, r.String(NameMax))
	}
	return out
}

func appendUse(b []byte, u TokenUse) []byte {
	b = appendStrings(codec.AppendString(b, u.Name), u.Roles)
	return binary.LittleEndian.AppendUint64(append(b, u.Key[:]...), uint64(u.AtMS))
}

func readUse(r *codec.Reader) (u TokenUse) {
	u.Name, u.Roles = r.String(NameMax), readStrings(r, TokenRolesMax)
	r.Fill(u.Key[:])
	u.AtMS = int64(r.U64())
	return u
}

func appendToken(b []byte, t *Token) []byte {
	b = appendStrings(append(append(b, t.ID[:]...), t.Hash[:]...), t.Roles)
	b = binary.LittleEndian.AppendUint32(codec.AppendString(b, t.Name), t.UsesMax)
	b = codec.AppendString(binary.LittleEndian.AppendUint64(b, uint64(t.ExpiresMS)), t.By)
	b = binary.AppendUvarint(appendBool(b, t.Revoked), uint64(len(t.Uses)))
	for _, u := range t.Uses {
		b = appendUse(b, u)
	}
	return b
}

func readToken(r *codec.Reader) *Token {
	t := &Token{}
	r.Fill(t.ID[:])
	r.Fill(t.Hash[:])
	t.Roles, t.Name, t.UsesMax = readStrings(r, TokenRolesMax), r.String(NameMax), r.U32()
	t.ExpiresMS, t.By, t.Revoked = int64(r.U64()), r.String(NameMax), readBool(r)
	for n := r.Count(TokenUsesMax, 42); n > 0; n-- {
		t.Uses = append(t.Uses, readUse(r))
	}
	return t
}

// appendRoster is the part of a snapshot about who belongs to the cluster.
func (m *Machine) appendRoster(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(m.members)))
	for _, x := range m.Members() {
		b = appendMember(b, x)
	}
	b = binary.AppendUvarint(b, uint64(len(m.tokens)))
	for _, t := range m.Tokens() {
		b = appendToken(b, t)
	}
	return b
}

func (m *Machine) readRoster(r *codec.Reader) {
	for n := r.Count(MembersMax, 3); n > 0; n-- {
		x := readMember(r)
		m.members[x.ID] = x
	}
	for n := r.Count(TokensMax, 58); n > 0; n-- {
		t := readToken(r)
		m.tokens[t.ID] = t
	}
}

func emptyRoster(k kind) Command {
	switch k {
	case kindSetMember:
		return &SetMember{}
	case kindDropMember:
		return &DropMember{}
	case kindAddToken:
		return &AddToken{}
	case kindRevokeToken:
		return &RevokeToken{}
	case kindUseToken:
		return &UseToken{}
	case kindTellInventory:
		return &TellInventory{}
	case kindFinishRebuild:
		return &FinishRebuild{}
	case kindSetLevel:
		return &SetLevel{}
	case kindAddEvents:
		return &AddEvents{}
	case kindChangeTrust:
		return &ChangeTrust{}
	case kindCordonHost:
		return &CordonHost{}
	}
	return nil
}

// applyRoster carries out c if it is about who belongs to the cluster, or about rebuilding it.
func (m *Machine) applyRoster(c Command) (Result, bool) {
	switch c := c.(type) {
	case *SetMember:
		return m.setMember(c), true
	case *DropMember:
		return m.dropMember(c), true
	case *AddToken:
		return m.addToken(c), true
	case *RevokeToken:
		return m.revokeToken(c), true
	case *UseToken:
		return m.useToken(c), true
	case *TellInventory:
		return m.tellInventory(c), true
	case *FinishRebuild:
		return m.finishRebuild(c), true
	case *SetLevel:
		return m.setLevel(c), true
	case *AddEvents:
		return m.addEvents(c), true
	case *ChangeTrust:
		return m.changeTrust(c), true
	case *CordonHost:
		return m.cordonHost(c), true
	}
	return Result{}, false
}

func (*SetMember) kind() kind   { return kindSetMember }
func (*DropMember) kind() kind  { return kindDropMember }
func (*AddToken) kind() kind    { return kindAddToken }
func (*RevokeToken) kind() kind { return kindRevokeToken }
func (*UseToken) kind() kind    { return kindUseToken }

func (c *SetMember) append(b []byte) []byte  { return appendMember(b, c.Member) }
func (c *SetMember) read(r *codec.Reader)    { c.Member = readMember(r) }
func (c *DropMember) append(b []byte) []byte { return codec.AppendString(b, c.ID) }
func (c *DropMember) read(r *codec.Reader)   { c.ID = r.String(NameMax) }

func (c *AddToken) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(appendToken(b, &c.Token), uint64(c.NowMS))
}

func (c *AddToken) read(r *codec.Reader) {
	c.Token = *readToken(r)
	c.NowMS = int64(r.U64())
}

func (c *RevokeToken) append(b []byte) []byte { return append(b, c.ID[:]...) }
func (c *RevokeToken) read(r *codec.Reader)   { r.Fill(c.ID[:]) }

func (c *UseToken) append(b []byte) []byte {
	return appendUse(append(append(b, c.ID[:]...), c.Hash[:]...), c.Use)
}

func (c *UseToken) read(r *codec.Reader) {
	r.Fill(c.ID[:])
	r.Fill(c.Hash[:])
	c.Use = readUse(r)
}
