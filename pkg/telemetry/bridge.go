package telemetry

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// Hclog lets hashicorp libraries write into l. Their text becomes the message,
// their pairs the attributes. Levels are l's own: SetLevel does nothing.
func Hclog(l *slog.Logger) hclog.Logger { return &hclogBridge{l: l} }

type hclogBridge struct {
	l       *slog.Logger
	name    string
	implied []any
}

var hclogLevels = map[hclog.Level]slog.Level{
	hclog.Trace: slog.LevelDebug, hclog.Debug: slog.LevelDebug, hclog.Info: slog.LevelInfo,
	hclog.Warn: slog.LevelWarn, hclog.Error: slog.LevelError, hclog.NoLevel: slog.LevelInfo,
}

func (b *hclogBridge) Log(level hclog.Level, msg string, args ...any) {
	to, ok := hclogLevels[level]
	if !ok || !b.l.Enabled(context.Background(), to) { // hclog.Off is not in the table
		return
	}
	pairs := make([]any, len(args))
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		pairs[i] = a
	}
	b.l.Log(context.Background(), to, msg, pairs...)
}

func (b *hclogBridge) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }
func (b *hclogBridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b *hclogBridge) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b *hclogBridge) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b *hclogBridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *hclogBridge) enabled(level slog.Level) bool {
	return b.l.Enabled(context.Background(), level)
}

func (b *hclogBridge) IsTrace() bool      { return false }
func (b *hclogBridge) IsDebug() bool      { return b.enabled(slog.LevelDebug) }
func (b *hclogBridge) IsInfo() bool       { return b.enabled(slog.LevelInfo) }
func (b *hclogBridge) IsWarn() bool       { return b.enabled(slog.LevelWarn) }
func (b *hclogBridge) IsError() bool      { return b.enabled(slog.LevelError) }
func (b *hclogBridge) ImpliedArgs() []any { return b.implied }
func (b *hclogBridge) Name() string       { return b.name }

func (b *hclogBridge) With(args ...any) hclog.Logger {
	implied := append(append([]any{}, b.implied...), args...)
	return &hclogBridge{l: b.l.With(args...), name: b.name, implied: implied}
}

func (b *hclogBridge) Named(name string) hclog.Logger {
	if b.name != "" {
		name = b.name + "." + name
	}
	return b.ResetNamed(name)
}

func (b *hclogBridge) ResetNamed(name string) hclog.Logger {
	return &hclogBridge{l: b.l, name: name, implied: b.implied}
}

func (b *hclogBridge) SetLevel(hclog.Level) {}

func (b *hclogBridge) GetLevel() hclog.Level {
	switch {
	case b.IsDebug():
		return hclog.Debug
	case b.IsInfo():
		return hclog.Info
	case b.IsWarn():
		return hclog.Warn
	default:
		return hclog.Error
	}
}

func (b *hclogBridge) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(b.l.Handler(), slog.LevelInfo)
}

func (b *hclogBridge) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return b.StandardLogger(nil).Writer()
}

// PebbleLogger has the methods of pebble.Logger. What pebble tells of its daily work
// is debug here, its errors stay errors.
type PebbleLogger struct {
	log   *slog.Logger
	fatal func(message string)
}

// Pebble makes a PebbleLogger. fatal is called for what pebble cannot survive (a failed
// WAL write); pebble expects it not to return, so after fatal the goroutine is parked
// for ever: fatal marks the store dead, and the process lives on.
func Pebble(log *slog.Logger, fatal func(message string)) *PebbleLogger {
	return &PebbleLogger{log: log, fatal: fatal}
}

// Infof is part of pebble.Logger.
func (p *PebbleLogger) Infof(format string, args ...any) {
	if p.log.Enabled(context.Background(), slog.LevelDebug) {
		p.log.Debug("pebble", "event", line(format, args))
	}
}

// Errorf is part of pebble.Logger.
func (p *PebbleLogger) Errorf(format string, args ...any) {
	p.log.Error("pebble reports an error", "event", line(format, args))
}

// Fatalf is part of pebble.Logger. It does not return.
func (p *PebbleLogger) Fatalf(format string, args ...any) {
	text := line(format, args)
	p.log.Error("pebble cannot go on", "event", text)
	p.fatal(text)
	select {}
}

func line(format string, args []any) string {
	return strings.TrimSpace(fmt.Sprintf(format, args...))
}
