//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/clock"
	"ashlar.dev/pkg/diskfile"
	"ashlar.dev/pkg/pki"
)

// Without this libnbd would not see what a disk can do, or a map that is not the disk's.
func TestNbdinfoOnADisk(t *testing.T) {
	needTools(t, "nbdinfo", "nbdsh")
	c := undisturbed(t)
	d := disk(t, c, "info", "64MiB")
	uri := endpoints(t, c, "info").Unix
	out := run(t, "nbdinfo", uri)
	for _, want := range []string{"export-size: 67108864", "base:allocation", "can_multi_conn: true", "can_flush: true", "can_fua: true", "can_trim: true", "can_zero: true",
		"is_read_only: false", "block_size_minimum: 1", "block_size_preferred: 4096", "block_size_maximum: 33554432"} {
		if !strings.Contains(out, want) {
			t.Errorf("nbdinfo does not say %q:\n%s", want, out)
		}
	}
	if got := words(run(t, "nbdinfo", "--map", uri)); got != "0 67108864 3 hole,zero" {
		t.Errorf("map of a new disk: %s", got)
	}
	run(t, "nbdsh", "-u", uri, "-c", "h.pwrite(b'x' * 65536, 1 << 20); h.flush()")
	if got := words(run(t, "nbdinfo", "--map", uri)); got != "0 1048576 3 hole,zero 1048576 65536 0 data 1114112 65994752 3 hole,zero" {
		t.Errorf("map after a write: %s", got)
	}
	// The list has every disk by its name.
	list := run(t, "nbdinfo", "--list", strings.Replace(uri, d.DiskID, "", 1))
	if !strings.Contains(list, `export="info"`) {
		t.Errorf("list:\n%s", list)
	}
	if out, err := try("nbdinfo", strings.Replace(uri, d.DiskID, "no-such-disk", 1)); err == nil {
		t.Errorf("a disk that does not exist:\n%s", out)
	}
	if got := words(run(t, "nbdinfo", "--size", strings.Replace(uri, d.DiskID, "info", 1))); got != "67108864" {
		t.Errorf("size by the disk's name: %s", got)
	}
}

func words(s string) string { return strings.Join(strings.Fields(s), " ") }

// Without this images copied by libnbd's and QEMU's tools would lose bytes or holes on their
// way through buffers, segments and back.
func TestImagesComeBackAsTheyWent(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-img")
	c := undisturbed(t)
	const size = 256 << 20
	in := scratch(t, "in")
	image(t, in, size)
	for _, x := range []struct {
		name      string
		put, back func(uri, out string)
	}{
		{"nbdcopy", func(uri, _ string) { run(t, "nbdcopy", "--connections=4", "--flush", in, uri) },
			func(uri, out string) { run(t, "nbdcopy", "--connections=4", uri, out) }},
		{"qemu", func(uri, _ string) { run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", in, uri) },
			func(uri, out string) { run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, out) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			name := "copy-" + x.name
			disk(t, c, name, fmt.Sprint(size))
			uri := endpoints(t, c, name).Unix
			out := scratch(t, "out")
			x.put(uri, out)
			x.back(uri, out)
			sameFiles(t, in, out)
			run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", in, uri)
			if m := run(t, "qemu-img", "map", "-f", "raw", "--output=json", uri); !strings.Contains(m, `"zero": true`) || !strings.Contains(m, `"zero": false`) {
				t.Errorf("holes did not stay holes:\n%s", m)
			}
		})
	}
}

// clientCertificate makes a folder as libnbd and QEMU want it, with a certificate for the disks named.
func clientCertificate(t *testing.T, c *cluster.Cluster, disks ...string) string {
	t.Helper()
	ca, err := pki.LoadCA(clock.System, filepath.Join(c.Dir, "pki"))
	must(t, err)
	pair, err := ca.Issue(pki.Request{Role: pki.RoleNBD, Name: "e2e-client", Disks: disks})
	must(t, err)
	dir := t.TempDir()
	for name, text := range map[string][]byte{"ca-cert.pem": ca.CertPEM(), "client-cert.pem": pair.CertPEM, "client-key.pem": pair.KeyPEM} {
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	return dir
}

// withTLS asks for TLS where plain clients are let in too, as ashlar dev lets them on loopback.
func withTLS(uri string) string { return strings.Replace(uri, "nbd://", "nbds://", 1) }

// Without this clients over the network would work with ourselves only, or anybody could
// open any disk.
func TestDiskOverTLSWithACertificate(t *testing.T) {
	needTools(t, "nbdinfo", "nbdcopy", "qemu-img")
	c := undisturbed(t)
	disk(t, c, "tls", "64MiB")
	disk(t, c, "tls-other", "64MiB")
	tcp := withTLS(endpoints(t, c, "tls").TCP)
	dir := clientCertificate(t, c, "tls")
	uri := tcp + "?tls-certificates=" + dir
	if out := run(t, "nbdinfo", uri); !strings.Contains(out, "with TLS") {
		t.Errorf("nbdinfo:\n%s", out)
	}
	in, back := scratch(t, "in"), scratch(t, "back")
	image(t, in, 64<<20)
	run(t, "nbdcopy", "--connections=2", in, uri)
	run(t, "nbdcopy", uri, back)
	sameFiles(t, in, back)

	u, err := url.Parse(tcp)
	must(t, err)
	host, port, err := net.SplitHostPort(u.Host)
	must(t, err)
	run(t, "qemu-img", "compare", "--object", "tls-creds-x509,id=tls0,dir="+dir+",endpoint=client", "--image-opts", "driver=raw,file.filename="+in,
		"driver=nbd,server.type=inet,server.host="+host+",server.port="+port+",tls-creds=tls0,export="+strings.TrimPrefix(u.Path, "/"))

	tool, err := diskfile.Find() // what image export runs
	must(t, err)
	must(t, tool.FromNBD(t.Context(), uri, back, diskfile.Raw, false, nil))
	sameFiles(t, in, back)

	other := withTLS(endpoints(t, c, "tls-other").TCP) + "?tls-certificates=" + dir
	if out, err := try("nbdinfo", other); err == nil {
		t.Errorf("a certificate for one disk opened another:\n%s", out)
	}
	must(t, os.Remove(filepath.Join(dir, "client-cert.pem")))
	if out, err := try("nbdinfo", uri); err == nil {
		t.Errorf("served without a client certificate:\n%s", out)
	}
}

// Without this QEMU, through which guests come, would find writes that begin and end inside
// blocks, zeros and discards wrong.
func TestQemuIOOnADisk(t *testing.T) {
	needTools(t, "qemu-io", "qemu-img")
	c := undisturbed(t)
	disk(t, c, "qemu-io", "256MiB")
	uri := endpoints(t, c, "qemu-io").Unix
	out := run(t, "qemu-io", "-f", "raw",
		"-c", "write -P 7 4096 1M", "-c", "write -f -P 8 1234567 54321", "-c", "read -P 7 4096 1M", "-c", "read -P 8 1234567 54321", // within blocks
		"-c", "write -P 1 513 1", "-c", "read -P 1 513 1", "-c", "read -P 0 512 1", "-c", "read -P 0 514 3000",
		"-c", "write -z -u 64k 128k", "-c", "write -z -u -n 256k 64k", "-c", "read -P 0 64k 128k", "-c", "write -z 1300001 3", "-c", "read -P 8 1288000 800",
		"-c", "discard 1M 2M", "-c", "read -P 0 2M 64k", "-c", "flush",
		"-c", "aio_write -P 9 8M 4M", "-c", "aio_write -P 10 12M 4M", "-c", "aio_flush", "-c", "read -P 9 8M 4M", "-c", "read -P 10 12M 4M",
		"-c", "write -P 5 48M 16M", "-c", "write -P 6 50M 4k", "-c", "read -P 5 48M 2M", "-c", "read -P 6 50M 4k", "-c", "read -P 5 52432896 8M", uri)
	for _, bad := range []string{"failed", "rror"} {
		if strings.Contains(out, bad) {
			t.Fatalf("qemu-io:\n%s", out)
		}
	}
	run(t, "qemu-img", "bench", "-f", "raw", "-c", "5000", "-d", "32", "-s", "4k", "-w", "--flush-interval=100", uri)
}

// fio runs a verified mix of block sizes at depth 32.
func fio(t *testing.T, uri string, more ...string) {
	t.Helper()
	args := append([]string{"--name=" + strings.ReplaceAll(t.Name(), "/", "-"), "--ioengine=nbd", "--uri=" + uri, "--rw=randrw", "--bsrange=512-128k", "--blockalign=512", "--iodepth=32",
		"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--serialize_overlap=1", "--randseed=7"}, more...)
	run(t, "fio", args...)
}

// Without this bytes under mixed sizes at depth, overwritten and trimmed while they are packed, would go unchecked.
func TestFioVerifiesADisk(t *testing.T) {
	needTools(t, "fio")
	c := undisturbed(t)
	disk(t, c, "fio", "1GiB")
	e := endpoints(t, c, "fio")
	fio(t, e.Unix, "--size=128M", "--io_size=160M", "--fsync=50")
	fio(t, e.All[1].Unix, "--offset=256M", "--size=64M", "--io_size=64M") // through a proxy
	run(t, "fio", "--name=trims", "--ioengine=nbd", "--uri="+e.Unix, "--rw=randtrimwrite", "--bs=64k", "--iodepth=8", "--offset=512M", "--size=64M")
}

// Without this several connections of one client would see different bytes.
func TestConnectionsShareOneDisk(t *testing.T) {
	needTools(t, "nbdsh", "nbdcopy")
	c := undisturbed(t)
	disk(t, c, "multi", "64MiB")
	uri := endpoints(t, c, "multi").Unix
	run(t, "nbdsh", "-c", fmt.Sprintf(`
hs = [nbd.NBD() for i in range(4)]
for h in hs:
    h.connect_uri(%q)
    assert h.can_multi_conn()
for n in range(200):
    hs[n %% 4].pwrite(bytes([n %% 251 + 1]) * 8192, n * 8192)
    assert hs[(n + 1) %% 4].pread(8192, n * 8192) == bytes([n %% 251 + 1]) * 8192
hs[3].flush()
for h in hs:
    h.shutdown()
`, uri))
}

// Without this a client that comes through another blockd than the owner would see another disk.
func TestEveryEndpointServesTheSameBytes(t *testing.T) {
	needTools(t, "nbdsh", "qemu-img")
	c := undisturbed(t)
	disk(t, c, "same", "64MiB")
	e := endpoints(t, c, "same")
	if len(e.All) != 3 {
		t.Fatalf("%d endpoints, want one for each of 3 blockds", len(e.All))
	}
	uris, err := json.Marshal(e.UnixURIs())
	must(t, err)
	run(t, "nbdsh", "-c", fmt.Sprintf(`
hs = []
for u in %s:
    h = nbd.NBD(); h.connect_uri(u); hs.append(h)
for n in range(120):
    data = bytes([n + 1]) * 12288
    hs[n %% 3].pwrite(data, n * 12288)
    for h in hs:
        assert h.pread(12288, n * 12288) == data
hs[1].zero(12288, 0)
assert all(h.pread(12288, 0) == bytearray(12288) for h in hs)
for h in hs:
    h.shutdown()
`, uris))
	e = endpoints(t, c, "same")
	if !e.All[0].Owner || e.All[1].Owner || e.All[2].Owner {
		t.Errorf("the owner is not the first, or not the only one: %+v", e.All)
	}
	for _, x := range e.All[1:] {
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", e.Unix, x.Unix)
	}
}
