//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"ashlar.dev/bench/e2e/cluster"
)

// countKeys counts the keys that were answered well so far to a method, below a prefix of the archive.
func (b *bucket) countKeys(method, prefix string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for key := range b.done[method] {
		if strings.HasPrefix(key, "/snaps/here/"+prefix) {
			n++
		}
	}
	return n
}

// storedOnce complains about objects that were stored more than once.
func (b *bucket) storedOnce(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, n := range b.done[http.MethodPut] {
		if strings.Contains(key, "/data/") && n > 1 {
			t.Errorf("%s was stored %d times", key, n)
		}
	}
	t.Logf("%d requests, answered badly: %v", b.requests, b.bad)
}

// Without this an archive in S3 could be spoilt by who dies beside it: the disk's owner in the middle of an upload, snapshotd in the middle of a
// gc, behind a server that answers badly. No object is stored twice, nothing that is needed is deleted, nothing else stays.
func TestArchiveInS3OutlivesKills(t *testing.T) {
	needTools(t, "nbdcopy", "qemu-io", "openssl")
	b := serveS3(t, needS3(t))
	c, err := cluster.Start(cluster.Options{Allowed: cluster.Faults, Args: []string{"--no-restart", "--store-size", "1GiB", "--s3", b.url, "--s3-credentials", b.credentials, "--s3-ca", b.ca}})
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop(t.Failed())) })
	disk(t, c, "kept", "128MiB")
	image := make([]byte, 128<<20)
	_, err = rand.Read(image[:96<<20])
	must(t, err)
	file := scratch(t, "image")
	must(t, os.WriteFile(file, image, 0o600))
	run(t, "nbdcopy", file, endpoints(t, c, "kept").Unix)
	snapshot(t, c, "kept", "one")
	ashlar(t, c, "snapshot", "archive", "kept@one")
	must(t, cluster.Wait("the first object", patience, func() bool { return b.countKeys(http.MethodPut, "data/") > 0 }))
	owner := endpoints(t, c, "kept").All[0].Host
	kill(t, c, owner)
	there := b.countKeys(http.MethodPut, "data/")
	ashlar(t, c, "--timeout", "2m", "snapshot", "archive", "kept@one", "--wait")
	if all := b.countKeys(http.MethodPut, "data/"); there >= all {
		t.Errorf("%d of %d objects were there when %s was killed: not in the middle", there, all, owner)
	} else {
		t.Logf("%d of %d objects were there when %s was killed", there, all, owner)
	}
	revive(t, c, owner)
	must(t, c.WaitUp(patience))
	ashlar(t, c, "snapshot", "verify", "kept@one")

	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 8M 4M", endpoints(t, c, "kept").Unix)
	snapshot(t, c, "kept", "two")
	ashlar(t, c, "--timeout", "2m", "snapshot", "archive", "kept@two", "--wait")
	b.storedOnce(t)
	killedInGc(t, c, b)
	dropSnapshots(t, c, "kept")
}

// killedInGc has snapshotd killed among the deletions of a gc: of what one snapshot alone needed, and of an upload that was given up.
func killedInGc(t *testing.T, c *cluster.Cluster, b *bucket) {
	t.Helper()
	const given, litter = 300, "data/00000000000000000000000000000bad/"
	plain := b.gateway.client(t)
	for n := range given {
		_, err := plain.PutObject(t.Context(), "snaps", fmt.Sprint("here/", litter, n), bytes.NewReader([]byte("an object")), 9, minio.PutObjectOptions{})
		must(t, err)
	}
	ashlar(t, c, "archive", "delete", "kept@one")
	age(t, b.folder)
	done := sweep(c)
	must(t, cluster.Wait("the first deletions", patience, func() bool { return b.countKeys(http.MethodDelete, litter) > 0 }))
	kill(t, c, "s1")
	if n := b.countKeys(http.MethodDelete, litter); n == given {
		t.Error("snapshotd was not killed in the middle of gc")
	} else {
		t.Logf("%d of %d strays were deleted when snapshotd was killed", n, given)
	}
	revive(t, c, "s1")
	must(t, <-done) // the next life goes on with it
	ashlar(t, c, "snapshot", "verify", "kept@two")
	age(t, b.folder) // the mark of the dead, too
	ashlar(t, c, "archive", "gc", "--grace", "1m")
	ashlar(t, c, "snapshot", "verify", "kept@two")
	var usage struct{ Objects int }
	must(t, c.JSON(&usage, "archive", "usage"))
	if have := filesIn(filepath.Join(b.folder, "here", "data")); have != usage.Objects || usage.Objects == 0 {
		t.Errorf("%d objects are there, and %d needed", have, usage.Objects)
	}
	for _, folder := range []string{"trash", "uploads", "gc", "copying"} {
		if n := filesIn(filepath.Join(b.folder, "here", folder)); n > 0 {
			t.Errorf("%d objects are left in %s", n, folder)
		}
	}
}
