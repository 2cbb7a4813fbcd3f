//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"ashlar.dev/bench/e2e/cluster"
)

// backedUp starts a cluster of one metad whose state is put into its archive when backUp says so.
func backedUp(t *testing.T, overlay string, args ...string) *cluster.Cluster {
	t.Helper()
	file := scratch(t, "overlay.yaml")
	must(t, os.WriteFile(file, []byte("backup: {disabled: true}\n"+overlay), 0o600))
	rebuilt := cluster.Allowance{Pattern: `level=WARN msg="state rebuilt"`, Reason: "that is what is tested"}
	c, err := cluster.Start(cluster.Options{Allowed: append([]cluster.Allowance{rebuilt}, cluster.Faults...),
		Args: append([]string{"--no-restart", "--metad", "1", "--blockd", "2", "--store-size", "1GiB", "--snapshotd-config", file}, args...)})
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop(t.Failed())) })
	return c
}

// backUp has the state of metad put into the archive, and waits for that.
func backUp(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	file := filepath.Join(c.Dir, "config", "s1.yaml")
	text, err := os.ReadFile(file)
	must(t, err)
	on := strings.Replace(string(text), "disabled: true", "disabled: false", 1)
	if on == string(text) {
		t.Fatalf("backups are not off in %s:\n%s", file, text)
	}
	must(t, os.WriteFile(file, []byte(on), 0o600))
	kill(t, c, "s1")
	revive(t, c, "s1")
	must(t, cluster.Wait("a backup of metad", patience, func() bool { return backupsMade(t, c) > 0 }))
}

// filled makes a disk of random bytes and gives the sum of them.
func filled(t *testing.T, c *cluster.Cluster, name string) (d cluster.Disk, sum string) {
	t.Helper()
	d, err := c.Create(name, "16MiB")
	must(t, err)
	file := scratch(t, name)
	must(t, os.WriteFile(file, pattern(name[0], 16), 0o600))
	uri := endpoints(t, c, name).Unix
	run(t, "nbdcopy", file, uri)
	return d, sumOf(t, uri)
}

// metadComesBack loses the only metad of a cluster with its disk, and makes another of what the archive has of it and what the stores have.
func metadComesBack(t *testing.T, c *cluster.Cluster, fetch ...string) {
	t.Helper()
	needTools(t, "nbdcopy")
	early, _ := filled(t, c, "early")
	backUp(t, c)
	late, sumLate := filled(t, c, "late")
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 1M 1M", endpoints(t, c, "early").Unix)
	sumEarly := sumOf(t, endpoints(t, c, "early").Unix)
	var config struct{ Data string }
	file := filepath.Join(c.Dir, "config", "m1.yaml")
	text, err := os.ReadFile(file)
	must(t, err)
	must(t, yaml.Unmarshal(text, &config))
	for _, daemon := range []string{"s1", "m1"} {
		kill(t, c, daemon)
	}
	must(t, os.RemoveAll(config.Data))

	state := scratch(t, "state")
	ashlar(t, c, append([]string{"metad", "backups", "fetch", state}, fetch...)...)
	bin, err := cluster.BinDir()
	must(t, err)
	if out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "metad"), "--config", file, "--restore", state).CombinedOutput(); err != nil {
		t.Fatalf("metad --restore: %v\n%s", err, out)
	}
	revive(t, c, "m1")
	revive(t, c, "s1")
	must(t, cluster.Wait("all stores to tell what they have", patience, func() bool {
		var s struct {
			Rebuilding    bool
			Told, Waiting []string
		}
		return c.JSON(&s, "metad", "rebuild") == nil && s.Rebuilding && len(s.Told) == 4 && len(s.Waiting) == 0
	}))
	ashlar(t, c, "metad", "rebuild", "--finish")
	must(t, c.WaitUp(patience))
	for name, want := range map[string]string{"early": sumEarly, "recovered-" + late.DiskID: sumLate} {
		out := scratch(t, "out")
		must(t, cluster.Wait("disk "+name+" to be read", patience, func() bool { // its owner is fenced once it hears of the new metad
			e, err := c.NBD(name)
			return err == nil && exec.Command("nbdcopy", e.Unix, out).Run() == nil
		}))
		if got := sumOfFile(t, out); got != want {
			t.Errorf("disk %s is %s, was %s", name, got, want)
		}
	}
	if d, err := c.Disk("early"); err != nil || d.DiskID != early.DiskID {
		t.Errorf("%+v %v, want %s", d, err, early.DiskID)
	}
}

// Without this the loss of all metads would be the loss of the cluster, whatever its archive has: the backup in it
// brings back every disk, also what was made and written after it.
func TestMetadComesBackFromTheArchive(t *testing.T) {
	metadComesBack(t, backedUp(t, ""))
}

// Without this that would be so of a folder only, and not of what lies encrypted in S3, behind a server that answers badly, and is fetched with
// its credentials by a command that needs no daemon.
func TestArchiveInS3BringsMetadBack(t *testing.T) {
	b := serveS3(t, needS3(t))
	key := filepath.Join(b.dir, "key")
	must(t, os.WriteFile(key, []byte(strings.Repeat("c5", 32)), 0o600))
	c := backedUp(t, "archive: {key_file: "+key+"}\n", "--s3", b.url, "--s3-credentials", b.credentials, "--s3-ca", b.ca)
	metadComesBack(t, c, "--from", b.url, "--credentials", b.credentials, "--ca", b.ca, "--key-file", key)
}
