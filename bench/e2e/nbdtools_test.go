//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nbdserve builds the perf harness once and starts it; it ends with the test, in order.
type nbdserve struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	unix string // URI
	tcp  string // address
}

// startNBD runs nbdserve with a unix socket, and what args add.
func startNBD(t *testing.T, args ...string) *nbdserve {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover harms nobody
	s := &nbdserve{t: t, dir: dir}
	run(t, "go", "build", "-o", filepath.Join(dir, "nbdserve"), "ashlar.dev/bench/perf/nbdserve")
	s.start(filepath.Join(dir, "s"), args...)
	t.Cleanup(s.stop)
	return s
}

// start runs the server that was built.
func (s *nbdserve) start(socket string, args ...string) {
	t := s.t
	t.Helper()
	s.unix = "nbd+unix:///?socket=" + socket
	s.cmd = exec.Command(filepath.Join(s.dir, "nbdserve"), append([]string{"--unix", socket}, args...)...)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	fields := strings.Fields(line)
	if err != nil || len(fields) < 2 || fields[0] != "ready" {
		t.Fatalf("nbdserve said %q: %v", line, err)
	}
	if len(fields) > 2 {
		s.tcp = fields[2]
	}
}

func (s *nbdserve) stop() {
	_ = s.cmd.Process.Signal(os.Interrupt)
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("nbdserve: %v", err)
	}
}

// run runs a tool and gives what it printed; a failure ends the test.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	// Python's packages of the system come with the system's Python.
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin:"+os.Getenv("PATH"))
	done := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer done.Stop()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// needTools skips where a tool is missing, and says which.
func needTools(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
}

// image makes a file of size bytes with data and holes.
func image(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	rng := mrand.NewChaCha8([32]byte{1})
	for at := int64(0); at < size; at += 5 << 20 { // data for a while, then a hole
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(f, rng, min(1<<20+12345, size-at)); err != nil {
			t.Fatal(err)
		}
	}
}

func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Fatalf("%s and %s differ", a, b)
	}
}

// Without this libnbd's tools could not see what the server can do.
func TestNbdinfoSeesTheExport(t *testing.T) {
	needTools(t, "nbdinfo", "nbdsh")
	s := startNBD(t, "--size", "64MiB")
	out := run(t, "nbdinfo", s.unix)
	packets := "structured packets"
	if os.Getenv("NEWER") != "" { // make newer: these clients speak extended headers
		packets = "extended packets"
	}
	for _, want := range []string{"newstyle-fixed", packets, "export-size: 67108864", "base:allocation", "can_multi_conn: true", "can_fast_zero: true", "can_df: true",
		"is_read_only: false", "block_size_preferred: 4096", "block_size_maximum: 33554432", "description: memory disk"} {
		if !strings.Contains(out, want) {
			t.Errorf("nbdinfo does not say %q:\n%s", want, out)
		}
	}
	if out := run(t, "nbdinfo", "--list", s.unix); !strings.Contains(out, "67108864") {
		t.Errorf("list:\n%s", out)
	}
	run(t, "nbdsh", "-u", s.unix, "-c", "h.pwrite(b'x'*65536, 1<<20)")
	out = run(t, "nbdinfo", "--map", s.unix)
	if got := strings.Join(strings.Fields(out), " "); got != "0 1048576 3 hole,zero 1048576 65536 0 data 1114112 65994752 3 hole,zero" {
		t.Errorf("map: %s", got)
	}
	if out, err := try("nbdinfo", strings.Replace(s.unix, "///", "///none", 1)); err == nil {
		t.Errorf("an export that does not exist:\n%s", out)
	}
}

// Without this commands that libnbd can send and QEMU does not would go untried by others' code.
func TestNbdshSpeaksEveryCommand(t *testing.T) {
	needTools(t, "nbdsh")
	s := startNBD(t, "--size", "8MiB")
	run(t, "nbdsh", "--base-allocation", "-u", s.unix, "-c", `
h.set_strict_mode(0)
h.pwrite(b"stone" * 1000, 3, nbd.CMD_FLAG_FUA)
assert h.pread(5000, 3) == b"stone" * 1000
assert h.pread(65536, 0, nbd.CMD_FLAG_DF)[3:8] == b"stone"
h.flush(); h.cache(8 << 20, 0); h.trim(4096, 1 << 20)
h.zero(100, 3, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(1 << 20, 2 << 20, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(100, 3) == bytearray(100)
seen = []
h.block_status(8 << 20, 0, lambda c, o, e, err: seen.append((c, e)))
assert seen[0][0] == "base:allocation" and sum(seen[0][1][::2]) == 8 << 20
seen = []
h.block_status(8 << 20, 0, lambda c, o, e, err: seen.append((c, e)), nbd.CMD_FLAG_REQ_ONE)
assert len(seen[0][1]) == 2
for wrong in (lambda: h.pread(1, 8 << 20), lambda: h.trim(4096, 8 << 20), lambda: h.block_status(1, 9 << 20, lambda *a: 0)):
    try:
        wrong(); assert False
    except nbd.Error as e:
        assert e.errnum == 22, e
try:
    h.pwrite(b"x", 8 << 20); assert False
except nbd.Error as e:
    assert e.errnum == 28, e
assert h.pread(1, 0) is not None
h.shutdown()
`)
	for _, version := range []string{"h.set_request_structured_replies(False)", "h.set_handshake_flags(0)"} {
		run(t, "nbdsh", "-c", version, "-c", "h.connect_uri('"+s.unix+"')", "-c", "h.pwrite(b'y'*9, 1)", "-c", "assert h.pread(9, 1) == b'y'*9")
	}
	ro := startNBD(t, "--size", "8MiB", "--readonly")
	run(t, "nbdsh", "-u", ro.unix, "-c", `
h.set_strict_mode(0)
assert h.is_read_only()
for wrong in (lambda: h.pwrite(b"x" * 512, 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)):
    try:
        wrong(); assert False
    except nbd.Error as e:
        assert e.errnum == 1, e
h.pread(512, 0)
`)
}

// Without this images copied by others' tools, over several connections, would lose bytes or holes.
func TestCopyThereAndBack(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-img")
	s := startNBD(t, "--size", "64MiB")
	in, back := filepath.Join(s.dir, "in"), filepath.Join(s.dir, "back")
	image(t, in, 64<<20)
	run(t, "nbdcopy", "--connections=4", in, s.unix)
	run(t, "nbdcopy", "--connections=4", s.unix, back)
	sameFiles(t, in, back)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, s.unix)

	q := startNBD(t, "--size", "64MiB")
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", in, q.unix)
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", q.unix, back+"2")
	sameFiles(t, in, back+"2")
	if out := run(t, "qemu-img", "map", "-f", "raw", "--output=json", q.unix); !strings.Contains(out, `"zero": true`) || !strings.Contains(out, `"zero": false`) {
		t.Errorf("the map has no holes or no data:\n%s", out)
	}
	run(t, "nbdcopy", s.unix, q.unix)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", s.unix, q.unix)
}

// Without this QEMU, the client that guests use, would find the server wrong.
func TestQemuIO(t *testing.T) {
	needTools(t, "qemu-io", "qemu-img")
	s := startNBD(t, "--size", "64MiB")
	out := run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 4096 1M", "-c", "write -f -P 8 1234567 54321", "-c", "read -P 7 4096 1M", "-c", "read -P 8 1234567 54321",
		"-c", "write -z -u 64k 128k", "-c", "write -z -u -n 256k 64k", "-c", "read -P 0 64k 128k", "-c", "discard 1M 2M", "-c", "flush", "-c", "aio_write -P 9 8M 4M", "-c", "aio_read -P 9 8M 4M", "-c", "aio_flush",
		"-c", "write -P 5 48M 16M", "-c", "read -P 5 48M 16M", s.unix)
	for _, bad := range []string{"failed", "rror"} {
		if strings.Contains(out, bad) {
			t.Fatalf("qemu-io:\n%s", out)
		}
	}
	if out, _ := try("qemu-io", "-f", "raw", "-c", "write -z -n 256k 64k", s.unix); !strings.Contains(out, "not supported") {
		t.Errorf("zeros that stay allocated are not fast in memory, but it said:\n%s", out)
	}
	run(t, "qemu-img", "bench", "-f", "raw", "-c", "5000", "-d", "32", "-s", "4k", "-w", "--flush-interval=100", s.unix)
}

// Without this mixed sizes at depth, checked by the writer, would go unchecked.
func TestFioVerifies(t *testing.T) {
	needTools(t, "fio")
	for _, args := range [][]string{nil, {"--delay", "200us"}} {
		s := startNBD(t, append([]string{"--size", "256MiB"}, args...)...)
		run(t, "fio", "--name=verify", "--ioengine=nbd", "--uri="+s.unix, "--rw=randrw", "--bsrange=512-256k", "--blockalign=512", "--iodepth=32", "--size=128M",
			"--io_size=128M", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--serialize_overlap=1", "--randseed=7", "--fsync=50")
	}
}

// Without this the restart of a server would be an I/O error in every guest.
func TestQemuOutlivesARestart(t *testing.T) {
	needTools(t, "qemu-io", "stdbuf")
	s := startNBD(t, "--size", "64MiB", "--hangup")
	socket := strings.TrimPrefix(s.unix, "nbd+unix:///?socket=")
	qemu := exec.Command("stdbuf", "-oL", "qemu-io", "--image-opts", "driver=nbd,server.type=unix,server.path="+socket+",reconnect-delay=30")
	in, err := qemu.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	qemu.Stderr = qemu.Stdout
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	patience := time.AfterFunc(time.Minute, func() { _ = qemu.Process.Kill() })
	t.Cleanup(func() { patience.Stop(); _ = qemu.Process.Kill() })
	out := bufio.NewReader(pipe)
	expect := func(want string) {
		t.Helper()
		for {
			line, err := out.ReadString('\n')
			if strings.Contains(line, want) {
				return
			}
			if err != nil || strings.Contains(line, "failed") {
				t.Fatalf("qemu-io said %q (%v), want %q", line, err, want)
			}
		}
	}
	fmt.Fprintln(in, "write -P 1 0 4k")
	expect("wrote 4096/4096 bytes at offset 0")
	s.stop()
	fmt.Fprintln(in, "aio_write -P 2 8k 4k") // there is no server now
	s.start(socket, "--size", "64MiB")
	expect("wrote 4096/4096 bytes at offset 8192")
	fmt.Fprintln(in, "read -P 2 8k 4k")
	expect("read 4096/4096 bytes at offset 8192")
	fmt.Fprintln(in, "quit")
	if err := qemu.Wait(); err != nil {
		t.Fatal(err)
	}
}

// certificates writes an authority, a server's and a client's certificate, as libnbd and QEMU look for them.
func certificates(t *testing.T, dir string) {
	t.Helper()
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: i == 0, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
		if i == 0 {
			template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageCertSign, nil
			ca, caKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if ca, err = x509.ParseCertificate(der); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for kind, block := range map[string]*pem.Block{"cert": {Type: "CERTIFICATE", Bytes: der}, "key": {Type: "PRIVATE KEY", Bytes: raw}} {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s.pem", name, kind)), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Without this TLS would work with ourselves only.
func TestToolsOverTLS(t *testing.T) {
	needTools(t, "nbdinfo", "nbdcopy", "qemu-img")
	dir := t.TempDir()
	certificates(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	s := startNBD(t, "--size", "64MiB", "--tcp", "127.0.0.1:0", "--cert", file("server-cert.pem"), "--key", file("server-key.pem"), "--ca", file("ca-cert.pem"))
	uri := "nbds://" + s.tcp + "/?tls-certificates=" + dir
	if out := run(t, "nbdinfo", uri); !strings.Contains(out, "with TLS") {
		t.Errorf("nbdinfo:\n%s", out)
	}
	in, back := file("in"), file("back")
	image(t, in, 64<<20)
	run(t, "nbdcopy", "--connections=2", in, uri)
	run(t, "nbdcopy", uri, back)
	sameFiles(t, in, back)
	host, port, _ := net.SplitHostPort(s.tcp)
	run(t, "qemu-img", "compare", "--object", "tls-creds-x509,id=tls0,dir="+dir+",endpoint=client", "--image-opts", "driver=raw,file.filename="+in,
		"driver=nbd,server.type=inet,server.host="+host+",server.port="+port+",tls-creds=tls0")
	if out, err := try("nbdinfo", "nbd://"+s.tcp+"/"); err == nil {
		t.Errorf("served in the clear:\n%s", out)
	}
	if err := os.Remove(file("client-cert.pem")); err != nil {
		t.Fatal(err)
	}
	if out, err := try("nbdinfo", uri); err == nil {
		t.Errorf("served without a client certificate:\n%s", out)
	}
}
