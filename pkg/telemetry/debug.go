package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ashlar.dev/pkg/lifecycle"
)

// DebugServer serves /metrics, /healthz and /debug/pprof/ over plain HTTP. It has no
// authentication, so it listens on loopback or a unix socket unless it is told an
// address of another interface, and pprof answers only callers of this machine.
type DebugServer struct {
	ln    net.Listener
	group *lifecycle.Group
	http  *http.Server
}

// DebugOptions is what a daemon gives to ServeDebug.
type DebugOptions struct {
	// Listen is "host:port" (an empty host means 127.0.0.1) or "unix:PATH".
	Listen   string
	Registry *prometheus.Registry
	// Health says why the daemon does not serve; nil error, or no function, is healthy.
	Health func() error
	Log    *slog.Logger
}

// ServeDebug listens and serves until Close.
func ServeDebug(o DebugOptions) (*DebugServer, error) {
	ln, err := listenDebug(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for debug on %s: %w", o.Listen, err)
	}
	log := o.Log
	if log == nil {
		log = Discard()
	}
	s := &DebugServer{ln: ln, group: lifecycle.NewGroup(context.Background())}
	s.http = &http.Server{
		Handler:           debugMux(o),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.group.Go("debug server", func(context.Context) error {
		if err := s.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("debug server ended", "err", err)
		}
		return nil
	})
	return s, nil
}

// Addr is where it listens, with the port that was chosen.
func (s *DebugServer) Addr() string {
	if s.ln.Addr().Network() == "unix" {
		return "unix:" + s.ln.Addr().String()
	}
	return s.ln.Addr().String()
}

// Close ends connections and waits. It may be called again.
func (s *DebugServer) Close() error {
	err := s.http.Close()
	return errors.Join(err, s.group.Close())
}

func listenDebug(addr string) (net.Listener, error) {
	path, unix := strings.CutPrefix(addr, "unix:")
	if !unix {
		if strings.HasPrefix(addr, ":") {
			addr = "127.0.0.1" + addr
		}
		return net.Listen("tcp", addr)
	}
	// A socket file left by a killed process would block the next one; its owner holds no lock on it.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

func debugMux(o DebugOptions) *http.ServeMux {
	mux := http.NewServeMux()
	if o.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(o.Registry, promhttp.HandlerOpts{}))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if o.Health != nil {
			if err := o.Health(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		io.WriteString(w, "ok\n") // it fails only when the caller is gone
	})
	for path, h := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		mux.HandleFunc(path, localOnly(h))
	}
	return mux
}

// localOnly refuses callers of other machines: a heap profile can hold user data.
func localOnly(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() {
				http.Error(w, "profiles are served to this machine only", http.StatusForbidden)
				return
			}
		}
		h(w, r)
	}
}
