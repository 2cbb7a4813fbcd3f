package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/enroll"
	"ashlar.dev/pkg/pki"
	"ashlar.dev/pkg/telemetry"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unpack gives the files of a bundle.
func unpack(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	must(t, err)
	out := make(map[string][]byte)
	for files := tar.NewReader(z); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(t, err)
		out[h.Name], err = io.ReadAll(files)
		must(t, err)
	}
}

// Whoever gets a bundle must not become a part of the cluster: no key, token or private half
// of a certificate is in it, wherever it stood: in a config, in a log, cut in the middle, in an error.
func TestNoSecretIsInABundle(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewCA(clock.System, "test")
	must(t, err)
	pair, err := ca.Issue(pki.Request{Role: pki.RoleMetad, Name: "m1", Hosts: []string{"127.0.0.1"}})
	must(t, err)
	must(t, ca.Save(filepath.Join(dir, "ca")))
	must(t, pair.Save(filepath.Join(dir, "pki"), "metad"))
	print, err := pki.FingerprintOf(ca.CertPEM())
	must(t, err)
	tok, err := enroll.NewToken(print)
	must(t, err)
	tok.Addresses = []string{"127.0.0.1:1"}
	caKey, err := os.ReadFile(filepath.Join(dir, "ca", pki.CAKeyFile))
	must(t, err)
	key := string(pair.KeyPEM)
	config := "id: m1\nsecret: hunter2\njoin:\n  password: \"open sesame\"\ntls: {key: " + filepath.Join(dir, "pki", "metad.key") + "}\n" + key
	must(t, os.WriteFile(filepath.Join(dir, "metad.yaml"), []byte(config), 0o600))
	half := key[len(key)/2:] // the log's end begins in the middle of a key
	log := half + "level=INFO msg=\"" + tok.Text() + "\" api_key=abc123\n" + string(caKey) + "level=INFO msg=ends\n" + key[:len(key)/2]
	must(t, os.WriteFile(filepath.Join(dir, "metad.log"), []byte(log), 0o600))
	debug, err := telemetry.ServeDebug(telemetry.DebugOptions{Listen: "unix:" + filepath.Join(dir, "d.sock"), Registry: telemetry.NewRegistry("metad"),
		Health: func() error { return errors.New("sick of " + tok.Text()) }})
	must(t, err)
	defer debug.Close()
	pieces := Daemon{Name: "metad", Config: filepath.Join(dir, "metad.yaml"), Log: filepath.Join(dir, "metad.log"), Debug: debug.Addr()}.Pieces()
	pieces = append(pieces, JSON("status.json", func(context.Context) (any, error) { return nil, errors.New("refused: " + key) }))
	var packed bytes.Buffer
	manifest, err := Write(t.Context(), clock.System, &packed, pieces)
	must(t, err)
	files := unpack(t, packed.Bytes())
	if len(manifest) != len(pieces) || len(files) != len(pieces) {
		t.Fatalf("%d entries, %d files of %d pieces", len(manifest), len(files), len(pieces))
	}
	for name, b := range files {
		for _, secret := range append(lines(key), append(lines(string(caKey)), tok.Text(), "hunter2", "open sesame", "abc123", "PRIVATE KEY")...) {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s has %q", name, secret)
			}
		}
	}
	for name, want := range map[string]string{"daemons/metad/config.yaml": "id: m1", "daemons/metad/log.txt": "msg=ends", "daemons/metad/metrics.txt": "ashlar_build_info",
		"daemons/metad/goroutines.txt": "goroutine profile", "daemons/metad/health.txt": "sick of [redacted]", "manifest.json": "refused"} {
		if !strings.Contains(string(files[name]), want) {
			t.Errorf("%s has no %q: %.200s", name, want, files[name])
		}
	}
	if len(files["daemons/metad/heap.pprof"]) == 0 {
		t.Error("no heap profile")
	}
}

// lines are those of a key that are long enough to be one's own.
func lines(pem string) (out []string) {
	for l := range strings.Lines(pem) {
		if l = strings.TrimSpace(l); len(l) >= 16 && !strings.HasPrefix(l, "-") {
			out = append(out, l)
		}
	}
	return out
}

// Without limits a bundle of a sick machine would never end, or fill its disk.
func TestPiecesAreBounded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // stands for the time limit of each piece
	var packed bytes.Buffer
	const limit = 64 << 10
	manifest, err := write(ctx, clock.System, &packed, []Piece{
		{Name: "endless", Get: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(endless{}), nil }},
		{Name: "hangs", Get: func(ctx context.Context) (io.ReadCloser, error) { <-ctx.Done(); return nil, ctx.Err() }},
		Text("fine", func(context.Context) ([]byte, error) { return []byte("fine"), nil }),
	}, limit)
	must(t, err)
	if !manifest[0].Cut || manifest[0].Bytes != limit || manifest[1].Problem == "" || manifest[2].Bytes != 4 {
		t.Errorf("manifest %+v", manifest)
	}
	if packed.Len() > 1<<20 {
		t.Errorf("%d bytes", packed.Len())
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '.'
	}
	return len(b), nil
}
