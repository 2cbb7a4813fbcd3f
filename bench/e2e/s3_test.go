//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
)

// bucket is an S3 server, versitygw, with a bucket in a folder, and before it a proxy that counts what is put and answers some requests badly.
type bucket struct {
	*gateway
	folder string // of the bucket: objects are files in it
	url    string
	ca     string // file, to be trusted for the proxy

	mu       sync.Mutex
	requests int
	bad      map[string]int            // by kind: answered badly
	done     map[string]map[string]int // by method and path: how often it was answered well
}

// needS3 finds versitygw, which costs minutes to build: make s3 does, and CI runs that.
func needS3(t *testing.T) string {
	t.Helper()
	bin, err := cluster.BinDir()
	must(t, err)
	gw := filepath.Join(bin, "tools", "versitygw")
	if _, err := os.Stat(gw); err != nil {
		t.Skip("versitygw is not in bin/tools: make s3 builds it and runs this")
	}
	return gw
}

// gateway is a versitygw that serves folder s3 in dir.
type gateway struct {
	dir, address, credentials string
	cert                      string // file, to be trusted
	roots                     *x509.CertPool
}

// startGateway starts one; args are of its posix backend.
func startGateway(t *testing.T, gw string, args ...string) *gateway {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "s3"), 0o700))
	g := &gateway{dir: dir, credentials: filepath.Join(dir, "credentials")}
	must(t, os.WriteFile(g.credentials, []byte("access_key = tester\nsecret_key = hidden-from-logs\n"), 0o600))
	cert, key := filepath.Join(dir, "gw.crt"), filepath.Join(dir, "gw.key")
	run(t, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=gw",
		"-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g.address, g.cert = l.Addr().String(), cert
	must(t, l.Close())
	all := append([]string{"--access", "tester", "--secret", "hidden-from-logs", "--port", g.address, "--cert", cert, "--key", key, "--quiet", "posix"}, args...)
	cmd := exec.Command(gw, append(all, filepath.Join(dir, "s3"))...)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // it is ours, and has nothing to lose
	must(t, cluster.Wait("versitygw", patience, func() bool {
		c, err := net.DialTimeout("tcp", g.address, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}))
	pemText, err := os.ReadFile(cert)
	must(t, err)
	g.roots = x509.NewCertPool()
	g.roots.AppendCertsFromPEM(pemText)
	return g
}

// serveS3 starts both for a test.
func serveS3(t *testing.T, gw string) *bucket {
	t.Helper()
	g := startGateway(t, gw)
	b := &bucket{gateway: g, bad: make(map[string]int), done: make(map[string]map[string]int)}
	b.folder, b.ca = filepath.Join(g.dir, "s3", "snaps"), filepath.Join(g.dir, "ca.pem")
	must(t, os.MkdirAll(b.folder, 0o700))
	p := &httputil.ReverseProxy{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.roots}}, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "https", Host: g.address})
		r.Out.Host = r.In.Host // it is signed
	}, ModifyResponse: func(r *http.Response) error {
		if method := r.Request.Method; r.StatusCode < http.StatusMultipleChoices {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.done[method] == nil {
				b.done[method] = make(map[string]int)
			}
			b.done[method][r.Request.URL.Path]++
		}
		return nil
	}}
	s := httptest.NewTLSServer(b.spoiling(p))
	t.Cleanup(s.Close)
	b.url = s.URL + "/snaps/here"
	must(t, os.WriteFile(b.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	return b
}

// spoiling answers some requests as a bad server would: before it does anything, after it has, and in the middle of the answer.
func (b *bucket) spoiling(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.requests++
		kind := map[int]string{3: "429", 7: "500", 11: "lost answer", 13: "cut off"}[b.requests%17]
		if kind != "" {
			b.bad[kind]++
		}
		b.mu.Unlock()
		switch kind {
		case "429":
			http.Error(w, "<Error><Code>SlowDown</Code></Error>", http.StatusTooManyRequests)
		case "500":
			http.Error(w, "<Error><Code>InternalError</Code></Error>", http.StatusInternalServerError)
		case "lost answer":
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case "cut off":
			next.ServeHTTP(&short{ResponseWriter: w}, r)
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// short is an answer that ends in the middle.
type short struct {
	http.ResponseWriter
	sent int
}

func (s *short) Write(p []byte) (int, error) {
	if s.sent += len(p); s.sent > 1000 {
		return len(p), nil
	}
	return s.ResponseWriter.Write(p)
}

// restoreFromS3 makes a disk of what lies behind the bad server, and kills its owner while it is brought in.
func restoreFromS3(t *testing.T, c *cluster.Cluster, manifest, want string) {
	t.Helper()
	ok(t, c, "disk", "create", "back", "--from-archive", manifest, "--hydrate", "4MiB")
	t.Cleanup(func() { _, _ = c.CLI("disk", "delete", "back", "--force") })
	all := endpoints(t, c, "back")
	run(t, "nbdinfo", "--size", all.Unix)
	owner := endpoints(t, c, "back").All[0].Host
	kill(t, c, owner)
	if got := sumOf(t, otherThan(t, all, owner)); got != want {
		t.Errorf("with its owner killed the disk from S3 is %s, want %s", got, want)
	}
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	ok(t, c, "disk", "set", "back", "--hydrate", "1GiB")
	must(t, cluster.Wait("the disk to be brought in", patience, func() bool { return hydrationOf(t, c, "back").Segments == 0 }))
	if got := sumOf(t, endpoints(t, c, "back").Unix); got != want {
		t.Errorf("brought in from S3 the disk is %s, want %s", got, want)
	}
}

// copyFromS3 copies what lies behind the bad server into a folder, and kills snapshotd in the middle: whoever goes on writes no object again.
func copyFromS3(t *testing.T, c *cluster.Cluster, tool, manifest, want string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	objects := func() map[string]time.Time {
		names, err := filepath.Glob(filepath.Join(dir, "data", "*", "*"))
		must(t, err)
		out := make(map[string]time.Time)
		for _, n := range names {
			if i, err := os.Stat(n); err == nil {
				out[n] = i.ModTime()
			}
		}
		return out
	}
	done := make(chan error, 1)
	go func() {
		r, err := c.CLI("--timeout", "2m", "snapshot", "copy", "kept@one", "--to", "file://"+dir)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("snapshot copy: %s", r.Stderr)
		}
		done <- err
	}()
	must(t, cluster.Wait("the first object of the copy", patience, func() bool { return len(objects()) > 0 }))
	kill(t, c, "s1")
	there := objects()
	revive(t, c, "s1")
	must(t, <-done)
	for name, at := range there {
		if now := objects()[name]; !now.Equal(at) {
			t.Errorf("%s was written again", name)
		}
	}
	out := scratch(t, "copied")
	run(t, tool, dir, manifest, out)
	if got := sumOfFile(t, out); got != want {
		t.Errorf("what was copied came back as %s, is %s", got, want)
	}
	t.Logf("%d of %d objects were copied when snapshotd was killed", len(there), len(objects()))
}

// Without this the archive would work in a folder and not in S3: on a real server over TLS, behind one that answers badly, with snapshotd killed in
// the middle: no object is stored twice, nothing is missing, and what comes back, or is copied elsewhere, is the snapshot.
func TestArchiveInS3(t *testing.T) {
	needTools(t, "nbdcopy", "nbdinfo", "qemu-img", "openssl", "go")
	b := serveS3(t, needS3(t))
	c, err := cluster.Start(cluster.Options{Allowed: cluster.Faults, Args: []string{"--no-restart", "--store-size", "1GiB", "--s3", b.url, "--s3-credentials", b.credentials, "--s3-ca", b.ca}})
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop(t.Failed())) })
	disk(t, c, "kept", "128MiB")
	e := endpoints(t, c, "kept")
	image := make([]byte, 128<<20)
	_, err = rand.Read(image[:96<<20])
	must(t, err)
	file := scratch(t, "image")
	must(t, os.WriteFile(file, image, 0o600))
	run(t, "nbdcopy", file, e.Unix)
	snapshot(t, c, "kept", "one")
	ashlar(t, c, "snapshot", "archive", "kept@one")
	objects := func() int {
		names, err := filepath.Glob(filepath.Join(b.folder, "here", "data", "*", "*"))
		must(t, err)
		return len(names)
	}
	must(t, cluster.Wait("the first object", patience, func() bool { return objects() > 0 }))
	kill(t, c, "s1")
	there := objects()
	revive(t, c, "s1")
	ashlar(t, c, "--timeout", "2m", "snapshot", "archive", "kept@one", "--wait")
	ashlar(t, c, "--timeout", "2m", "snapshot", "verify", "kept@one")
	a := inArchive(t, c, "kept", "one")
	t.Logf("%d of %d objects were there when snapshotd was killed", there, objects())
	b.storedOnce(t)
	tool, out := scratch(t, "restore"), scratch(t, "restored")
	run(t, "go", "build", "-o", tool, "ashlar.dev/pkg/archive/restore")
	run(t, tool, filepath.Join(b.folder, "here"), a.Manifest, out)
	id := filepath.Base(strings.SplitN(e.Unix, "?", 2)[0])
	want := sumOf(t, exported(e.Unix, id, "kept@one"))
	if got := sumOfFile(t, out); got != want {
		t.Errorf("what was archived came back as %s, is %s", got, want)
	}
	restoreFromS3(t, c, a.Manifest, want)
	copyFromS3(t, c, tool, a.Manifest, want)
	log, err := os.ReadFile(filepath.Join(c.Dir, "log", "s1.log"))
	must(t, err)
	if strings.Contains(string(log), "hidden-from-logs") {
		t.Error("the secret is in the log")
	}
	imageInS3(t, c, b, file)
	ashlar(t, c, "snapshot", "delete", "kept@one")
	must(t, cluster.Wait("the snapshot to go", patience, func() bool { return !strings.Contains(ashlar(t, c, "snapshot", "list"), fmt.Sprint("kept")) }))
}

// imageInS3 writes the snapshot into the bucket as a file, in parts, and makes an image of that.
func imageInS3(t *testing.T, c *cluster.Cluster, b *bucket, file string) {
	t.Helper()
	u, err := url.Parse(b.url)
	must(t, err)
	flags := []string{"--s3-endpoint", u.Host, "--s3-credentials", b.credentials, "--ca", b.ca}
	ashlar(t, c, append([]string{"snapshot", "export", "kept@one", "s3://snaps/images/kept.qcow2"}, flags...)...)
	ashlar(t, c, append([]string{"image", "import", "kept", "s3://snaps/images/kept.qcow2"}, flags...)...)
	ashlar(t, c, "disk", "create", "again", "--from-image", "kept")
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", endpoints(t, c, "again").Unix, file)
	ashlar(t, c, "disk", "delete", "again", "--force")
	ashlar(t, c, "image", "delete", "kept")
}
