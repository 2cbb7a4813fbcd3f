//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ashlar.dev/bench/e2e/cluster"
)

// filesystem makes a raw file of 64 MiB with an ext4 filesystem that has the tests themselves in it, and the same as qcow2.
func filesystem(t *testing.T) (raw, qcow2 string) {
	t.Helper()
	dir := t.TempDir()
	raw, qcow2 = filepath.Join(dir, "fs.raw"), filepath.Join(dir, "fs.qcow2")
	must(t, os.WriteFile(raw, nil, 0o600))
	must(t, os.Truncate(raw, 64<<20))
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", ".", raw)
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
	return raw, qcow2
}

// dropImage deletes an image at the end of a test.
func dropImage(t *testing.T, c *cluster.Cluster, name string) {
	t.Cleanup(func() {
		if !t.Failed() {
			_, _ = c.CLI("image", "delete", name) // it may be gone already
		}
	})
}

// Without this a file that is imported could come back as something else, or what a disk made of it writes be in the next one.
func TestFilesBecomeImagesAndComeBack(t *testing.T) {
	needTools(t, "qemu-img", "qemu-io", "mke2fs", "e2fsck")
	c := undisturbed(t)
	raw, qcow2 := filesystem(t)
	dropImage(t, c, "fs")
	ok(t, c, "image", "import", "fs", qcow2, "--description", "the tests")
	if r, err := c.CLI("disk", "list"); err != nil || strings.Contains(r.Stdout, "import-") {
		t.Errorf("the disk that it came over is left: %v %s", err, r.Stdout)
	}
	for _, name := range []string{"of-image", "of-image-larger"} {
		args := []string{"disk", "create", name, "--from-image", "fs"}
		if name != "of-image" {
			args = append(args, "--size", "1GiB")
		}
		ok(t, c, args...)
		t.Cleanup(func() { _, _ = c.CLI("disk", "delete", name, "--force") }) // the cluster goes anyway
	}
	first := endpoints(t, c, "of-image").Unix
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", first, qcow2)
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 1 8M 8M", first)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", endpoints(t, c, "of-image-larger").Unix, raw) // what is beyond the file is zeros
	dir := t.TempDir()
	for _, file := range []string{"back.qcow2", "back.raw", "back.vhd", "packed.vmdk"} {
		path := filepath.Join(dir, file)
		args := []string{"image", "export", "fs", path}
		if strings.HasPrefix(file, "packed") {
			args = append(args, "--compress")
		}
		ok(t, c, args...)
		format := map[string]string{".vhd": "vpc"}[filepath.Ext(file)]
		if format == "" {
			format = strings.TrimPrefix(filepath.Ext(file), ".")
		}
		run(t, "qemu-img", "compare", "-f", format, "-F", "qcow2", path, qcow2)
	}
	run(t, "e2fsck", "-fn", filepath.Join(dir, "back.raw"))
	for _, file := range []string{"back.raw", "back.vhd", "packed.vmdk"} { // the formats that people bring, by what is in the file
		name := "from-" + strings.TrimPrefix(filepath.Ext(file), ".")
		dropImage(t, c, name)
		ok(t, c, "image", "import", name, filepath.Join(dir, file))
		ok(t, c, "disk", "create", name, "--from-image", name)
		t.Cleanup(func() { _, _ = c.CLI("disk", "delete", name, "--force") }) // the cluster goes anyway
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", endpoints(t, c, name).Unix, qcow2)
	}
	if r, err := c.CLI("image", "export", "fs", filepath.Join(dir, "back.raw")); err != nil || r.Code != 5 {
		t.Errorf("over a file that is there: %v %+v", err, r)
	}
	snapshot(t, c, "of-image", "now")
	ok(t, c, "snapshot", "export", "of-image@now", filepath.Join(dir, "snapshot.qcow2"))
	run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", filepath.Join(dir, "snapshot.qcow2"), first)
	dropSnapshots(t, c, "of-image")

	child := filepath.Join(dir, "child.qcow2")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", child)
	if r, err := c.CLI("image", "import", "child", child); err != nil || r.Code != 2 || !strings.Contains(r.Stderr, "backing file") {
		t.Errorf("a file with a backing file: %v %+v", err, r)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if r, err := c.CLI("disk", "list"); err != nil || strings.Contains(r.Stdout, "export-") {
		t.Errorf("left behind: %v %s", err, r.Stdout)
	}
}

// startImport starts to import a file of random bytes, which would take a minute, and gives the disk that it goes over.
func startImport(t *testing.T, c *cluster.Cluster, name string) (cmd *exec.Cmd, side string) {
	t.Helper()
	file := scratch(t, "random")
	b := make([]byte, 64<<20)
	_, _ = rand.Read(b) // never fails
	must(t, os.WriteFile(file, b, 0o600))
	bin, err := cluster.BinDir()
	must(t, err)
	path, slowed := slowedConvert(t)
	cmd = exec.Command(filepath.Join(bin, "ashlar"), "--data", c.Dir, "image", "import", name, file)
	cmd.Env = append(os.Environ(), "PATH="+path)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may be gone already
	must(t, cluster.Wait("the import to be under way", patience, func() bool {
		var all []cluster.Disk
		if err := c.JSON(&all, "disk", "list"); err != nil {
			return false
		}
		i := slices.IndexFunc(all, func(d cluster.Disk) bool { return strings.HasPrefix(d.Name, "import-"+name+"-") })
		if i < 0 {
			return false
		}
		side = all[i].Name
		r, err := c.CLI("disk", "set", side, "--bandwidth", "1MiB")
		return err == nil && r.Code == 0
	}))
	slowed()
	must(t, cluster.Wait("qemu-img to write", patience, func() bool {
		d, err := c.Disk(side)
		return err == nil && d.Sessions > 0
	}))
	return cmd, side
}

// slowedConvert is a PATH on which qemu-img converts nothing before slowed was called.
func slowedConvert(t *testing.T) (path string, slowed func()) {
	t.Helper()
	qemu, err := exec.LookPath("qemu-img")
	must(t, err)
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = convert ]; then while [ ! -e %s ]; do sleep 0.02; done; fi\nexec %s \"$@\"\n", gate, qemu)
	must(t, os.WriteFile(filepath.Join(dir, "qemu-img"), []byte(script), 0o755))
	return dir + ":" + os.Getenv("PATH"), func() { must(t, os.WriteFile(gate, nil, 0o600)) }
}

// Without this an import that was interrupted could leave half an image, or a disk that nobody asked for.
func TestInterruptedImportLeavesNothing(t *testing.T) {
	needTools(t, "qemu-img")
	c := undisturbed(t)
	for _, x := range []struct {
		name   string
		signal syscall.Signal
	}{{"stopped", syscall.SIGINT}, {"killed", syscall.SIGKILL}} {
		cmd, side := startImport(t, c, x.name)
		must(t, cmd.Process.Signal(x.signal))
		if err := cmd.Wait(); err == nil {
			t.Fatalf("%s: it says that it is done", x.name)
		}
		if r, err := c.CLI("image", "show", x.name); err != nil || r.Code != 3 {
			t.Errorf("%s: there is an image: %v %+v", x.name, err, r)
		}
		if x.signal == syscall.SIGKILL { // then nobody could delete the disk, but nothing writes to it any more
			must(t, cluster.Wait("the death of qemu-img", patience, func() bool {
				d, err := c.Disk(side)
				return err == nil && d.Sessions == 0
			}))
			ok(t, c, "disk", "delete", side)
		}
		must(t, cluster.Wait(fmt.Sprintf("%s: the disk to be gone", x.name), patience, func() bool {
			r, err := c.CLI("disk", "show", side)
			return err == nil && r.Code == 3
		}))
	}
}
