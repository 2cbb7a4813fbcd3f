package state

import (
	"testing"

	"ashlar.dev/pkg/errs"
)

func testToken(n byte, uses uint32, roles ...string) Token {
	return Token{ID: TokenID{n}, Hash: [32]byte{n, 1}, Roles: roles, UsesMax: uses, ExpiresMS: 1000, By: "ann"}
}

func use(name string, key byte, at int64, roles ...string) TokenUse {
	return TokenUse{Name: name, Roles: roles, Key: [32]byte{key}, AtMS: at}
}

// Without this a token found in an old mail would let anybody in.
func TestTokenIsRefusedWhenWrongExpiredUsedUpOrRevoked(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&AddToken{Token: testToken(1, 2, "metad", "blockd"), NowMS: 10})
	hash := [32]byte{1, 1}
	w.refused(errs.ErrDenied, &UseToken{ID: TokenID{2}, Hash: hash, Use: use("a", 1, 20, "blockd")})
	w.refused(errs.ErrDenied, &UseToken{ID: TokenID{1}, Hash: [32]byte{9}, Use: use("a", 1, 20, "blockd")})
	w.refused(errs.ErrDenied, &UseToken{ID: TokenID{1}, Hash: hash, Use: use("a", 1, 20, "operator")})
	w.refused(errs.ErrDenied, &UseToken{ID: TokenID{1}, Hash: hash, Use: use("a", 1, 1000, "blockd")})
	w.refused(errs.ErrInvalid, &UseToken{ID: TokenID{1}, Hash: hash, Use: use("../a", 1, 20, "blockd")})
	w.ok(&UseToken{ID: TokenID{1}, Hash: hash, Use: use("a", 1, 20, "blockd")})
	w.ok(&UseToken{ID: TokenID{1}, Hash: hash, Use: use("a", 1, 30, "blockd")}) // the answer was lost
	w.ok(&UseToken{ID: TokenID{1}, Hash: hash, Use: use("b", 2, 30, "metad", "blockd")})
	w.refused(errs.ErrDenied, &UseToken{ID: TokenID{1}, Hash: hash, Use: use("c", 3, 30, "blockd")})
	if n := len(w.Tokens()[0].Uses); n != 2 {
		t.Fatalf("%d uses are counted, want 2", n)
	}
	w.ok(&AddToken{Token: testToken(3, 1, "blockd"), NowMS: 10})
	w.ok(&RevokeToken{ID: TokenID{3}})
	w.refused(errs.ErrDenied, &UseToken{ID: TokenID{3}, Hash: [32]byte{3, 1}, Use: use("c", 3, 30, "blockd")})
	w.refused(errs.ErrNotFound, &RevokeToken{ID: TokenID{7}})
}

// Without this the bearer of any token could become a host that is there, and speak for its stores.
func TestTokenDoesNotGiveTheNameOfAnother(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&SetMember{Member{ID: "m1", API: "a:1", Raft: "a:2"}})
	w.ok(&AddToken{Token: testToken(1, 9, "blockd"), NowMS: 10})
	for _, name := range []string{"h1", "m1"} {
		w.refused(errs.ErrExists, &UseToken{ID: TokenID{1}, Hash: [32]byte{1, 1}, Use: use(name, 1, 20, "blockd")})
	}
	w.ok(&UseToken{ID: TokenID{1}, Hash: [32]byte{1, 1}, Use: use("new", 1, 20, "blockd")})
	w.refused(errs.ErrExists, &UseToken{ID: TokenID{1}, Hash: [32]byte{1, 1}, Use: use("new", 2, 20, "blockd")})

	named := testToken(2, 1, "blockd")
	named.Name = "h1"
	w.ok(&AddToken{Token: named, NowMS: 10})
	w.refused(errs.ErrDenied, &UseToken{ID: TokenID{2}, Hash: [32]byte{2, 1}, Use: use("h2", 1, 20, "blockd")})
	w.ok(&UseToken{ID: TokenID{2}, Hash: [32]byte{2, 1}, Use: use("h1", 1, 20, "blockd")})
}

// Without a limit the state would grow with every token ever made.
func TestOldTokensAreForgotten(t *testing.T) {
	w := newWorld(t, 1, 1)
	w.ok(&AddToken{Token: testToken(1, 1, "blockd"), NowMS: 10})
	later := testToken(2, 1, "blockd")
	later.ExpiresMS = 3*tokenKeptMS + 1
	w.ok(&AddToken{Token: later, NowMS: 2 * tokenKeptMS})
	if n := len(w.Tokens()); n != 1 {
		t.Fatalf("%d tokens, want the young one only", n)
	}
}

// Without this two members would share an address, and one of them get the other's votes.
func TestMembersHaveAddressesOfTheirOwn(t *testing.T) {
	w := newWorld(t, 0, 0)
	w.ok(&SetMember{Member{ID: "m1", API: "a:1", Raft: "a:2"}})
	w.refused(errs.ErrExists, &SetMember{Member{ID: "m2", API: "b:1", Raft: "a:2"}})
	w.refused(errs.ErrInvalid, &SetMember{Member{ID: "m2", API: "b:1"}})
	w.ok(&SetMember{Member{ID: "m1", API: "c:1", Raft: "c:2"}})
	w.ok(&SetMember{Member{ID: "m2", API: "a:1", Raft: "a:2"}})
	w.ok(&DropMember{ID: "m1"})
	if got := w.Members(); len(got) != 1 || got[0].ID != "m2" {
		t.Fatalf("members %v", got)
	}
}

// Without this a cluster could not be updated: what an older metad wrote has no roster.
func TestSnapshotOfVersionOneIsRead(t *testing.T) {
	w := newWorld(t, 2, 2)
	b := w.Snapshot()
	empty := len(New().appendRebuild(New().appendRoster(nil)))
	old := append(b[:len(b)-4-empty:len(b)-4-empty], 0, 0, 0, 0)
	old[len(snapshotMagic)] = 1
	m, err := Restore(seal(old))
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Snapshot()) != string(b) {
		t.Fatal("a state of version 1 restores to another")
	}
}
