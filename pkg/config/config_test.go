package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ashlar.dev/pkg/errs"
)

type section struct {
	Level string `yaml:"level"`
}

func (s *section) EnsureDefaults() {
	if s.Level == "" {
		s.Level = "info"
	}
}

func (s *section) Validate() error {
	if s.Level == "loud" {
		return errors.New("level is not one of ours")
	}
	return nil
}

type Common struct {
	Name string `yaml:"name"`
}

type sample struct {
	Common `yaml:",inline"`
	Wait   Duration           `yaml:"wait"`
	Cache  ByteSize           `yaml:"cache"`
	Log    section            `yaml:"log"`
	Opt    *section           `yaml:"opt,omitempty"`
	Stores []section          `yaml:"stores"`
	By     map[string]section `yaml:"by"`
}

// Without this a mistyped key would silently leave a default in force.
func TestUnknownKeysAreErrors(t *testing.T) {
	for doc, want := range map[string]string{
		"wiat: 3s":                           `line 1: unknown key "wiat"; known are by, cache`,
		"cache: 1\nlog:\n  lvl: x":           `line 3: unknown key "lvl" in log; known are level`,
		"stores:\n- level: a\n- lvl: b":      `line 3: unknown key "lvl" in stores[1]`,
		"by:\n  x: {lvl: 1}":                 `unknown key "lvl" in by.x`,
		"opt: {lvl: 1}":                      `unknown key "lvl" in opt`,
		"cache: 1\n---\ncache: 2":            "more than one YAML document",
		"a: &a {level: x}\nlog: *a":          `unknown key "a"`,
		"log: &a {level: x}\nopt: *a":        "aliases are not allowed",
		"wait: 30":                           "write it like 30s",
		"wait: -1s":                          "write it like 30s",
		"cache: lots":                        "write it like 4GiB",
		"cache: [1]":                         "want a single value",
		"log: {level: loud}":                 "log: level is not one of ours",
		"stores: [{level: a},{level: loud}]": "stores[1]: level is not one of ours",
		"cache: 1\ncache: 2":                 "already defined",
		"\tx":                                "yaml",
	} {
		err := Decode([]byte(doc), &sample{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", doc, err, want)
		}
	}
}

// Without this a section left out would be zero instead of its default.
func TestDefaultsReachEverySection(t *testing.T) {
	var c sample
	doc := "name: a\nwait: 1m30s\ncache: 64MiB\nopt: {}\nstores: [{}, {level: warn}]\n"
	if err := Decode([]byte(doc), &c); err != nil {
		t.Fatal(err)
	}
	if c.Name != "a" || c.Wait.Std() != 90*time.Second || c.Cache != 64*MiB {
		t.Errorf("decoded %+v", c)
	}
	if c.Log.Level != "info" || c.Opt.Level != "info" || c.Stores[0].Level != "info" || c.Stores[1].Level != "warn" {
		t.Errorf("defaults: %+v", c)
	}
	var empty sample
	if err := Decode(nil, &empty); err != nil || empty.Log.Level != "info" {
		t.Errorf("an empty file: %v %+v", err, empty)
	}
	if err := Prepare(c); !errors.Is(err, errs.ErrInvalid) {
		t.Errorf("Prepare of a value: %v", err)
	}
}

// Without this a crash while saving could leave half a file, or a key readable by all.
func TestWriteReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	for _, wait := range []Duration{1, Duration(time.Minute)} {
		if err := Write(path, "# made by a test\n", sample{Wait: wait, Cache: 3 * GiB}, 0o600); err != nil {
			t.Fatal(err)
		}
		var back sample
		if err := Load(path, &back); err != nil || back.Wait != wait || back.Cache != 3*GiB {
			t.Errorf("read back %+v, %v", back, err)
		}
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if err := WriteFile(filepath.Join(path, "x"), nil, 0o600); err == nil {
		t.Error("a folder that is a file was accepted")
	}
	if err := Load(filepath.Join(t.TempDir(), "none"), &sample{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// Without this a size could mean something else than its writer thought.
func TestByteSizes(t *testing.T) {
	for text, want := range map[string]ByteSize{
		"0": 0, "4096": 4096, "1B": 1, "4K": 4 * KiB, "4k": 4 * KiB, "64MiB": 64 * MiB, "64 mib": 64 * MiB, "4GiB": 4 * GiB, "4G": 4 * GiB,
		"1.5TiB": 1536 * GiB, "500GB": 500e9, "1kB": 1000, "2PiB": 2 * PiB, "15EiB": 15 * EiB,
		"18446744073709551615": 1<<64 - 1, ".5K": 512,
	} {
		if got, err := ParseByteSize(text); err != nil || got != want {
			t.Errorf("%q: %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", " ", "-1", "1.5", "1.0001K", "x", "GiB", "4Gib4", "4XiB", "1e3", "16EiB", "0x10", "1/2", ".", "1_000", "4 G i B", strings.Repeat("9", 50)} {
		if got, err := ParseByteSize(text); !errors.Is(err, errs.ErrInvalid) {
			t.Errorf("%q was accepted as %d (%v)", text, got, err)
		}
	}
	for size, want := range map[ByteSize]string{0: "0 B", 1023: "1023 B", 1536 * MiB: "1.5 GiB", 4 * GiB: "4 GiB", MiB - 1: "1 MiB", 1<<64 - 1: "16 EiB"} {
		if got := size.Human(); got != want {
			t.Errorf("%d: %q, want %q", size, got, want)
		}
	}
	if ByteSize(1<<64-1).Int64() != 1<<63-1 || GiB.Int64() != 1<<30 {
		t.Error("Int64 does not clamp")
	}
}

// Without this a span would read "1h0m0s" in files made by us.
func TestDurationsReadWell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Hour: "1h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s", 250 * time.Millisecond: "250ms",
		time.Hour + time.Second: "1h0m1s", 10 * time.Minute: "10m", 20 * time.Second: "20s",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}

// Sizes and durations are written by people: what is read is printed so that it is read again.
func FuzzUnits(f *testing.F) {
	for _, s := range []string{"4GiB", "64MiB", "1.5T", "500GB", "4096", "18446744073709551615", "16EiB", "1h30m", "250ms"} {
		f.Add(s, uint64(len(s)))
	}
	f.Fuzz(func(t *testing.T, text string, n uint64) {
		if got, err := ParseByteSize(text); err == nil {
			if again, err := ParseByteSize(got.String()); err != nil || again != got {
				t.Errorf("%q → %s → %d %v", text, got, again, err)
			}
		}
		if got, err := ParseByteSize(ByteSize(n).String()); err != nil || got != ByteSize(n) {
			t.Errorf("%d → %s → %d %v", n, ByteSize(n), got, err)
		}
		if got, err := ParseDuration(text); err == nil {
			if again, err := ParseDuration(got.String()); err != nil || again != got {
				t.Errorf("%q → %s → %d %v", text, got, again, err)
			}
		}
		d := Duration(n >> 1)
		if got, err := ParseDuration(d.String()); err != nil || got != d {
			t.Errorf("%d → %s → %d %v", n>>1, d, got, err)
		}
	})
}

// Files are written by people: whatever is in one gives a config with its defaults, or an error.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("wait: 1s\ncache: 4GiB\nlog: {level: info}\nstores: [{}]\nby: {x: {}}"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var c sample
		if err := Decode(doc, &c); err == nil && c.Log.Level == "" {
			t.Error("decoded without defaults")
		}
	})
}
