package devcluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
)

// Without this adding a store throws away what an operator wrote into the config, or names a
// store twice, and then blockd does not start any more.
func TestAddedStoreLeavesTheRestOfTheConfig(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "blockd.yaml")
	const before = "# ours\nid: b1\nrepair_rate: 8MiB # a slow network\nstores:\n  - path: /srv/one\n    size: 1GiB\n    format: false\ndata: /var/lib/x\n"
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	two := StoreConfig{Path: "/srv/two", Size: config.GiB}
	if err := AddStore(dir, file, two); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# ours\n", "repair_rate: 8MiB # a slow network\n", "- path: /srv/one\n", "- path: /srv/two\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if err := AddStore(dir, file, StoreConfig{Path: "/srv/two/", Size: config.GiB}); !errors.Is(err, errs.ErrExists) {
		t.Errorf("the same folder again: %v", err)
	}
	if _, _, err := BlockdFile(dir, "b2", ""); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("another host's name: %v", err)
	}
	if _, cfg, err := BlockdFile(dir, "b1", ""); err != nil || len(cfg.Stores) != 2 || cfg.Data != "/var/lib/x" {
		t.Errorf("%+v, %v", cfg, err)
	}
	for _, empty := range []string{"id: b1\n", "id: b1\nstores: []\n", "id: b1\nstores:\n"} {
		if err := os.WriteFile(file, []byte(empty), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := AddStore(dir, file, two); err != nil {
			t.Errorf("%q: %v", empty, err)
		}
		if _, cfg, err := BlockdFile(dir, "", ""); err != nil || len(cfg.Stores) != 1 || cfg.Stores[0].Path != "/srv/two" {
			t.Errorf("%q: %+v, %v", empty, cfg, err)
		}
	}
}

// Without this a store that was added to ashlar dev is gone with the next start, which writes
// the configs anew.
func TestDevKeepsAddedStores(t *testing.T) {
	dir := t.TempDir()
	l := layout{dir}
	p := &Plan{StoreSize: config.GiB, Blockds: []BlockdPlan{{ID: "b1", Stores: 2}, {ID: "b2", Stores: 2}}}
	f := &File{Cluster: "c", Metad: []string{"127.0.0.1:1"}, TLS: tlsFiles("pki", operatorName), Dev: p}
	if err := errors.Join(l.make(), f.save(dir), l.writeConfig("b2", l.blockd(p, p.Blockds[1], 0), "")); err != nil {
		t.Fatal(err)
	}
	file, cfg, err := BlockdFile(dir, "b2", "")
	if err != nil || cfg.ID != "b2" {
		t.Fatal(cfg, err)
	}
	if err := AddStore(dir, file, StoreConfig{Path: "/srv/three", Size: 5 * config.GiB}); err != nil {
		t.Fatal(err)
	}
	if f, err = LoadFile(dir); err != nil {
		t.Fatal(err)
	}
	got := l.blockd(f.Dev, f.Dev.Blockds[1], 0).Stores
	if len(got) != 3 || got[2] != (StoreConfig{Path: "/srv/three", Size: 5 * config.GiB}) || len(l.blockd(f.Dev, f.Dev.Blockds[0], 0).Stores) != 2 {
		t.Errorf("stores of the next start: %+v", got)
	}
	if _, _, err := BlockdFile(dir, "b9", ""); !errors.Is(err, errs.ErrNotFound) {
		t.Errorf("unknown blockd: %v", err)
	}
}

// Without this a number that was left in a lock file has some other process signalled.
func TestOnlyABlockdThatRunsIsSignalled(t *testing.T) {
	dir := t.TempDir()
	if runs, err := ReloadBlockd(dir); runs || err != nil {
		t.Errorf("never started: %v, %v", runs, err)
	}
	path := filepath.Join(dir, "LOCK")
	if err := os.WriteFile(path, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if runs, err := ReloadBlockd(dir); runs || err != nil {
		t.Errorf("ended: %v, %v", runs, err)
	}
	lock, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := errors.Join(syscall.Flock(int(lock.Fd()), syscall.LOCK_EX), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if runs, err := ReloadBlockd(dir); runs || !errors.Is(err, errs.ErrUnavailable) {
		t.Errorf("one that does not say its number: %v, %v", runs, err)
	}
}
