package enroll

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/pki"
)

func testToken(t testing.TB) Token {
	tok, err := NewToken(pki.Fingerprint{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	tok.Addresses = []string{"10.0.0.1:7102", "[::1]:7102"}
	return tok
}

// Without this a token would be read back as another, or a slip of the mouse as an attack.
func TestTokenSurvivesItsTextAndNothingElseDoes(t *testing.T) {
	tok := testToken(t)
	got, err := ParseToken(" " + tok.Text() + "\n")
	if err != nil || fmt.Sprint(got.Addresses) != fmt.Sprint(tok.Addresses) || got.Hash() != tok.Hash() || got.CA != tok.CA || got.ID != tok.ID {
		t.Fatalf("%v, %v", got, err)
	}
	text := tok.Text()
	for _, bad := range []string{"", "hello", text[:len(text)-1], text[:40] + "A" + text[41:], text + "A", tokenPrefix} {
		if bad == text {
			continue
		}
		if _, err := ParseToken(bad); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%.20q was read: %v", bad, err)
		} else if len(bad) > 40 && strings.Contains(err.Error(), bad[30:40]) {
			t.Errorf("the error quotes the token: %v", err)
		}
	}
}

// Tokens come from mails and terminals: whatever they are, they give a token or an error.
func FuzzParseToken(f *testing.F) {
	f.Add(testToken(f).Text())
	f.Add(tokenPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := ParseToken(text)
		if err != nil {
			return
		}
		if again, err := ParseToken(tok.Text()); err != nil || again.Text() != tok.Text() {
			t.Errorf("a token does not survive: %v", err)
		}
	})
}

func firstHost(t *testing.T) Host {
	dir := t.TempDir()
	return Host{Dir: filepath.Join(dir, "etc"), State: dir, Run: dir, Name: "a", Address: "127.0.0.1",
		Roles: []pki.Role{pki.RoleMetad, pki.RoleBlockd, pki.RoleOperator}, MetadPort: 7100, BlockdPort: 7200, NBDPort: 10809}
}

// Without this a second init would make another CA, and the cluster there would be locked out.
func TestInitLeavesAClusterThatIsThere(t *testing.T) {
	h := firstHost(t)
	name, err := Init(clock.System, "lab", h)
	if err != nil || !strings.HasPrefix(name, "lab-") {
		t.Fatal(name, err)
	}
	if _, err := Init(clock.System, "lab", h); !errors.Is(err, errs.ErrExists) {
		t.Fatalf("initialised twice: %v", err)
	}
	for _, f := range []string{MetadFile, BlockdFile, "cluster.yaml"} {
		if err := os.Remove(filepath.Join(h.Dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Init(clock.System, "lab", h); !errors.Is(err, errs.ErrExists) {
		t.Fatalf("a CA was overwritten: %v", err)
	}
}

// Without this keys would be read by whoever has an account on the machine.
func TestFilesOfAHostAreItsOwn(t *testing.T) {
	h := firstHost(t)
	if _, err := Init(clock.System, "lab", h); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(h.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && !strings.HasSuffix(path, ".crt") && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, fi.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Without this a slip in the address would give certificates that fit nobody.
func TestHostIsChecked(t *testing.T) {
	for what, spoil := range map[string]func(*Host){
		"no name": func(h *Host) { h.Name = "" }, "no address": func(h *Host) { h.Address = "" }, "a port": func(h *Host) { h.Address = "a:1" },
		"any address": func(h *Host) { h.Address = "0.0.0.0" }, "no metad": func(h *Host) { h.Roles = []pki.Role{pki.RoleBlockd} },
	} {
		h := firstHost(t)
		spoil(&h)
		if _, err := Init(clock.System, "lab", h); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
