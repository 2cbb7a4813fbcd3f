// Package telemetry sets up what a daemon shows of itself: the log, the metrics
// registry and the debug server. It is wiring for main and server packages; a room
// that logs takes a *slog.Logger, a room that counts takes its own nil-safe metrics
// struct. Nothing correct may depend on what is here.
package telemetry

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"ashlar.dev/pkg/errs"
)

// LogConfig is the log section of every daemon's file.
type LogConfig struct {
	// Lowest level written: debug, info, warn or error.
	Level string `yaml:"level"`
	// Form of a line: text for people, json for collectors.
	Format string `yaml:"format"`
}

// EnsureDefaults fills what is empty.
func (c *LogConfig) EnsureDefaults() {
	if c.Level == "" {
		c.Level = "info"
	}
	if c.Format == "" {
		c.Format = "text"
	}
}

// Validate refuses levels and formats that do not exist.
func (c *LogConfig) Validate() error {
	var all []error
	if _, err := c.level(); err != nil {
		all = append(all, err)
	}
	if c.Format != "text" && c.Format != "json" {
		all = append(all, fmt.Errorf("format %q: want text or json: %w", c.Format, errs.ErrInvalid))
	}
	return errors.Join(all...)
}

func (c *LogConfig) level() (slog.Level, error) {
	switch strings.ToLower(c.Level) {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("level %q: want debug, info, warn or error: %w", c.Level, errs.ErrInvalid)
}

// NewLogger writes to w as cfg says. Durations are written as text ("1.5s") in both formats.
func NewLogger(w io.Writer, cfg LogConfig) (*slog.Logger, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("set up log: %w", err)
	}
	level, err := cfg.level()
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: readable}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Discard is a logger that writes nothing, for tests and optional loggers.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
