package config

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"ashlar.dev/pkg/errs"
)

// ByteSize is a count of bytes as people write it: "64MiB", "4GiB", "4G", "1.5TiB", "500GB"
// or plain bytes. K, M, G, T, P and E alone mean powers of 1024, as disks are cut; KB,
// MB, GB … are powers of 1000, as makers count.
type ByteSize uint64

// Units of ByteSize.
const (
	KiB ByteSize = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
	PiB
	EiB
)

const sizeLetters = "KMGTPE"

// sizeLengthMax bounds what a peer or a file can make us compute with.
const sizeLengthMax = 40

// ParseByteSize reads what String writes, and what people write. It refuses negative
// sizes, broken bytes ("1.5") and what does not fit.
func ParseByteSize(text string) (ByteSize, error) {
	refuse := func(why string) (ByteSize, error) {
		return 0, fmt.Errorf("size %.*q: %s (write it like 4GiB, 64MiB or plain bytes): %w", sizeLengthMax, text, why, errs.ErrInvalid)
	}
	s := strings.TrimSpace(text)
	if s == "" || len(s) > sizeLengthMax {
		return refuse("not a size")
	}
	number := strings.TrimRight(s, "iIbBkKmMgGtTpPeE \t")
	unit, ok := sizeUnit(strings.TrimSpace(s[len(number):]))
	if !ok {
		return refuse("unknown unit")
	}
	if strings.Trim(number, "0123456789.") != "" || strings.Count(number, ".") > 1 || strings.Trim(number, ".") == "" {
		return refuse("not a number")
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return refuse("not a number")
	}
	value.Mul(value, new(big.Rat).SetInt(new(big.Int).SetUint64(unit)))
	switch {
	case !value.IsInt():
		return refuse("not a whole number of bytes")
	case !value.Num().IsUint64():
		return refuse("too large")
	}
	return ByteSize(value.Num().Uint64()), nil
}

func sizeUnit(suffix string) (uint64, bool) {
	s := strings.ToUpper(suffix)
	if s == "" || s == "B" {
		return 1, true
	}
	power := strings.IndexByte(sizeLetters, s[0]) + 1
	if power == 0 {
		return 0, false
	}
	switch s[1:] {
	case "", "IB":
		return 1 << (10 * power), true
	case "B":
		return uint64(math.Pow10(3 * power)), true
	}
	return 0, false
}

// String is exact: the largest binary unit that divides the size, else plain bytes.
func (b ByteSize) String() string {
	if b != 0 {
		for i := len(sizeLetters) - 1; i >= 0; i-- {
			if unit := ByteSize(1) << (10 * (i + 1)); b%unit == 0 {
				return strconv.FormatUint(uint64(b/unit), 10) + string(sizeLetters[i]) + "iB"
			}
		}
	}
	return strconv.FormatUint(uint64(b), 10)
}

// Human is rounded for tables: "1.5 GiB". It does not parse back to the same size.
func (b ByteSize) Human() string {
	if b < KiB {
		return strconv.FormatUint(uint64(b), 10) + " B"
	}
	v, i := float64(b)/1024, 0
	for v >= 1023.95 && i < len(sizeLetters)-1 {
		v, i = v/1024, i+1
	}
	text := strconv.FormatFloat(v, 'f', 1, 64)
	return strings.TrimSuffix(text, ".0") + " " + string(sizeLetters[i]) + "iB"
}

// Int64 is the size for interfaces that count signed; what does not fit is the largest.
func (b ByteSize) Int64() int64 { return int64(min(b, math.MaxInt64)) }

// MarshalText writes String, for JSON and flags.
func (b ByteSize) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText is ParseByteSize.
func (b *ByteSize) UnmarshalText(text []byte) error {
	v, err := ParseByteSize(string(text))
	if err == nil {
		*b = v
	}
	return err
}

// UnmarshalYAML takes a text with a unit or a plain number of bytes.
func (b *ByteSize) UnmarshalYAML(n *yaml.Node) error { return fromScalar(n, b) }

// MarshalYAML writes String.
func (b ByteSize) MarshalYAML() (any, error) { return b.String(), nil }

// Duration is a time span as people write it: "30s", "1m30s", "250ms". It is never negative.
type Duration time.Duration

// daysMax bounds what is written in days.
const daysMax = 100 * 366

// ParseDuration reads what String writes, and whole days, "30d". A number without unit is refused, but 0.
func ParseDuration(text string) (Duration, error) {
	if n, ok := strings.CutSuffix(strings.TrimSpace(text), "d"); ok {
		if days, err := strconv.ParseUint(n, 10, 32); err == nil && days <= daysMax {
			return Duration(days) * Duration(24*time.Hour), nil
		}
	}
	d, err := time.ParseDuration(strings.TrimSpace(text))
	if err != nil || d < 0 {
		return 0, fmt.Errorf("duration %.40q: write it like 30s, 250ms, 1m30s or 30d: %w", text, errs.ErrInvalid)
	}
	return Duration(d), nil
}

// Std is the same span as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String drops zero parts: "1h", not "1h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes String, for JSON and flags.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err == nil {
		*d = v
	}
	return err
}

// UnmarshalYAML is ParseDuration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error { return fromScalar(n, d) }

// MarshalYAML writes String.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

func fromScalar(n *yaml.Node, to interface{ UnmarshalText([]byte) error }) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: want a single value: %w", n.Line, errs.ErrInvalid)
	}
	if err := to.UnmarshalText([]byte(n.Value)); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}
