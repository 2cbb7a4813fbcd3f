package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("ashlar.dev/pkg/telemetry.(*PebbleLogger).Fatalf"))
}

// Without this a typing error in the log section would silence a daemon.
func TestLogConfigIsChecked(t *testing.T) {
	for _, bad := range []LogConfig{{Level: "loud"}, {Format: "xml"}} {
		if _, err := NewLogger(io.Discard, bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	var buf bytes.Buffer
	l, err := NewLogger(&buf, LogConfig{Level: "warn", Format: "json"})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("hidden")
	l.Warn("seen", "took", 1500*time.Millisecond)
	if got := buf.String(); strings.Contains(got, "hidden") || !strings.Contains(got, `"took":"1.5s"`) {
		t.Errorf("log: %s", got)
	}
}

// Without this what raft and pebble say would be lost or come at the wrong level.
func TestBridges(t *testing.T) {
	var buf bytes.Buffer
	l, err := NewLogger(&buf, LogConfig{Level: "info"})
	if err != nil {
		t.Fatal(err)
	}
	h := Hclog(l).Named("raft").With("peer", "m1")
	h.Debug("too fine")
	h.Warn("lost leader", "after", hclog.Fmt("%d ms", 7))
	h.StandardLogger(nil).Print("plain")
	if h.Name() != "raft" || h.IsDebug() || !h.IsInfo() || h.GetLevel() != hclog.Info || len(h.ImpliedArgs()) != 2 {
		t.Error("hclog bridge answers wrongly about itself")
	}
	var p pebble.Logger = Pebble(l, func(string) {})
	p.Infof("compacted %d", 3)
	p.Errorf("oh %s", "no")
	got := buf.String()
	for _, want := range []string{`level=WARN msg="lost leader" peer=m1 after="7 ms"`, "plain", `event="oh no"`} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "too fine") || strings.Contains(got, "compacted") {
		t.Errorf("daily work was logged:\n%s", got)
	}
}

// Without this a full disk would take the whole process down with one store.
func TestPebbleFatalParksAndTells(t *testing.T) {
	told := make(chan string)
	go Pebble(Discard(), func(m string) { told <- m }).Fatalf("wal: %s", "no space")
	if got := <-told; got != "wal: no space" {
		t.Errorf("told %q", got)
	}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// Without this an operator would have nothing to look at, or an unhealthy daemon would look well.
func TestDebugServer(t *testing.T) {
	var sick error
	s, err := ServeDebug(DebugOptions{Listen: ":0", Registry: NewRegistry("test"), Health: func() error { return sick }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	host, _, err := net.SplitHostPort(s.Addr())
	if err != nil || host != "127.0.0.1" {
		t.Errorf("an empty host must mean loopback, got %s %v", s.Addr(), err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/metrics": "process_resident_memory_bytes", "/healthz": "ok", "/debug/pprof/": "goroutine",
	} {
		if code, body := get(t, c, "http://"+s.Addr()+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, no %q in it", path, code, want)
		}
	}
	if _, body := get(t, c, "http://"+s.Addr()+"/metrics"); !strings.Contains(body, `ashlar_build_info{daemon="test"`) {
		t.Error("no build info")
	}
	sick = errors.New("no leader")
	if code, body := get(t, c, "http://"+s.Addr()+"/healthz"); code != 503 || !strings.Contains(body, "no leader") {
		t.Errorf("sick: %d %s", code, body)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Without this another host could read user data out of a heap profile.
func TestProfilesStayOnTheMachine(t *testing.T) {
	mux := debugMux(DebugOptions{})
	for from, want := range map[string]int{"192.0.2.7:1": 403, "127.0.0.1:1": 200, "[::1]:1": 200, "@": 200} {
		r := httptest.NewRequest("GET", "/debug/pprof/cmdline", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %s: %d, want %d", from, w.Code, want)
		}
	}
}

// Without this a daemon killed once could not start again with its debug socket.
func TestDebugOverUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	for range 2 { // the second start finds a socket file
		s, err := ServeDebug(DebugOptions{Listen: "unix:" + path})
		if err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("socket mode %v %v", fi.Mode(), err)
		}
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			}}}
		if code, _ := get(t, c, "http://x/healthz"); code != 200 {
			t.Errorf("healthz: %d", code)
		}
		s.ln.(*net.UnixListener).SetUnlinkOnClose(false)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Without this status would show a process that costs nothing.
func TestUsage(t *testing.T) {
	u := ReadUsage()
	if u.CPU <= 0 || u.ResidentBytes < 1<<20 {
		t.Errorf("usage %+v", u)
	}
	if v, g := Version(); v == "" || !strings.HasPrefix(g, "go") {
		t.Error(fmt.Sprint("version ", v, " ", g))
	}
	if Discard().Enabled(context.Background(), slog.LevelError) {
		t.Error("Discard must write nothing")
	}
}
