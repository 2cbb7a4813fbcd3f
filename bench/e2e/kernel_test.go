//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// guestInit is what the guest does: it attaches a disk with the kernel's NBD client over two
// TLS connections, mounts the filesystem on it, writes, frees, and detaches.
const guestInit = `#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in failover net_failover virtio_net; do insmod /m/$m.ko; done
insmod /m/nbd.ko nbds_max=2
ifconfig lo up; ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
set -e
trap 'dmesg | tail; poweroff -f' EXIT
/x/nbd-client -N %s -C 2 -y NORMAL -A /tls/ca-cert.pem -F /tls/client-cert.pem -K /tls/client-key.pem -H %s 10.0.2.2 %s /dev/nbd0
echo guest: sectors $(cat /sys/block/nbd0/size) fua $(cat /sys/block/nbd0/queue/fua)
mount -t ext4 /dev/nbd0 /mnt
echo guest: old $(sha256sum </mnt/data)
dd if=/dev/urandom of=/mnt/new bs=1M count=24 conv=fsync
echo guest: new $(sha256sum </mnt/new)
rm /mnt/data
fstrim -v /mnt
umount /mnt
/x/nbd-client -d /dev/nbd0
echo guest: done
`

// guest boots a kernel with what attaches disks and no other disk than those, and gives what it
// said. root is where deploy/dev/newer-clients unpacked.
func guest(t *testing.T, root, tls, init string) string {
	t.Helper()
	dir := t.TempDir()
	lib := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	loader := filepath.Join(root, "usr/lib64/ld-linux-x86-64.so.2")
	put := func(from, to string) {
		b, err := os.ReadFile(from)
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, to)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, to), b, 0o755))
	}
	for _, d := range []string{"proc", "sys", "dev", "mnt", "m"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "init"), []byte(init), 0o755))
	put(filepath.Join(root, "usr/bin/busybox"), "bin/busybox")
	client := filepath.Join(root, "usr/sbin/nbd-client")
	put(client, "x/nbd-client")
	put(loader, "lib64/ld-linux-x86-64.so.2")
	for line := range strings.Lines(run(t, loader, "--library-path", lib, "--list", client)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "=>" && f[2] != loader {
			put(f[2], "lib/x86_64-linux-gnu/"+f[0])
		}
	}
	for _, f := range []string{"ca-cert.pem", "client-cert.pem", "client-key.pem"} {
		put(filepath.Join(tls, f), "tls/"+f)
	}
	for _, m := range []string{"net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net", "drivers/block/nbd"} {
		found, err := filepath.Glob(filepath.Join(root, "usr/lib/modules/*/kernel", m+".ko.xz"))
		must(t, err)
		if len(found) != 1 {
			t.Fatalf("kernel module %s: %v", m, found)
		}
		run(t, "sh", "-c", fmt.Sprintf("xz -dc %q >%q", found[0], filepath.Join(dir, "m", filepath.Base(m)+".ko")))
	}
	ram := scratch(t, "initramfs")
	run(t, "sh", "-c", fmt.Sprintf("cd %q && find . | bin/busybox cpio -o -H newc >%q", dir, ram))
	kernel, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	must(t, err)
	if len(kernel) != 1 {
		t.Fatalf("kernels: %v", kernel)
	}
	share := filepath.Join(root, "usr/share")
	cmd := exec.CommandContext(t.Context(), loader, "--library-path", lib, filepath.Join(root, "usr/bin/qemu-system-x86_64"), "-L", share+"/seabios", "-L", share+"/qemu",
		"-accel", "tcg", "-m", "512", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", kernel[0], "-initrd", ram,
		"-append", "console=ttyS0 quiet panic=-1", "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=")
	done := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
	defer done.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the guest: %v\n%s", err, out)
	}
	return string(out)
}

// Without this nobody could tell whether Linux's own NBD client, which speaks another subset of
// the protocol than QEMU and libnbd, finds its data and keeps its writes.
func TestKernelMountsADisk(t *testing.T) {
	needTools(t, "mke2fs", "e2fsck", "debugfs", "nbdcopy")
	newer := os.Getenv("NEWER")
	if newer == "" {
		t.Skip("make newer brings a kernel and runs this")
	}
	c := undisturbed(t)
	disk(t, c, "mounted", "96MiB")
	files, in, back := t.TempDir(), scratch(t, "in"), scratch(t, "back")
	image(t, filepath.Join(files, "data"), 20<<20)
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", files, in, "96M")
	e := endpoints(t, c, "mounted")
	run(t, "nbdcopy", in, e.Unix)
	u, err := url.Parse(e.TCP)
	must(t, err)
	host, port, err := net.SplitHostPort(u.Host)
	must(t, err)
	said := guest(t, filepath.Join(newer, "root"), clientCertificate(t, c, "mounted"), fmt.Sprintf(guestInit, strings.TrimPrefix(u.Path, "/"), host, port))
	old := strings.Fields(run(t, "sha256sum", filepath.Join(files, "data")))[0]
	for _, want := range []string{"guest: sectors 196608 fua 1", "guest: old " + old, "guest: done"} {
		if !strings.Contains(said, want) {
			t.Fatalf("the guest does not say %q:\n%s", want, said)
		}
	}
	run(t, "nbdcopy", e.Unix, back)
	run(t, "e2fsck", "-fn", back)
	run(t, "debugfs", "-R", "dump /new "+back+".new", back)
	if sum := strings.Fields(run(t, "sha256sum", back+".new"))[0]; !strings.Contains(said, "guest: new "+sum) {
		t.Errorf("what the guest wrote is %s:\n%s", sum, said)
	}
	if m := run(t, "nbdinfo", "--map", "--totals", e.Unix); !strings.Contains(m, "hole,zero") {
		t.Errorf("what the guest freed is still there:\n%s", m)
	}
}
