//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"ashlar.dev/bench/e2e/cluster"
	"ashlar.dev/pkg/config"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// client is somebody with the credentials of the server, and no Ashlar.
func (g *gateway) client(t *testing.T) *minio.Client {
	t.Helper()
	c, err := minio.New(g.address, &minio.Options{Creds: credentials.NewStaticV4("tester", "hidden-from-logs", ""), Secure: true, Region: "us-east-1",
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: g.roots}}})
	must(t, err)
	return c
}

// plainClient is such a client; it makes buckets snaps and copies with object lock, and plain without.
func (g *gateway) plainClient(t *testing.T) *minio.Client {
	t.Helper()
	c := g.client(t)
	for _, name := range []string{"snaps", "copies"} {
		must(t, c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{ObjectLocking: true}))
	}
	must(t, c.MakeBucket(t.Context(), "plain", minio.MakeBucketOptions{}))
	return c
}

// withVersions is how a server is started that keeps versions, as S3 itself does of buckets that lock.
func withVersions(t *testing.T, gw string) *gateway {
	t.Helper()
	return startGateway(t, gw, "--versioning-dir", t.TempDir())
}

// Without this locks would be what our own test server makes of them, and not what a real one does, be it one that keeps versions or not.
func TestLockedObjectsInS3(t *testing.T) {
	gw := needS3(t)
	for name, g := range map[string]*gateway{"versions": withVersions(t, gw), "no versions": startGateway(t, gw)} {
		c := g.plainClient(t)
		open := func(bucket string) *objectstore.S3 {
			s, err := objectstore.NewS3(objectstore.S3Config{Endpoint: g.address, Bucket: bucket, Prefix: "here", Region: "us-east-1", Timeout: config.Duration(patience), EveryVersion: true},
				objectstore.Credentials{Access: "tester", Secret: "hidden-from-logs"}, &tls.Config{RootCAs: g.roots}, nil)
			must(t, err)
			return s
		}
		is := func(what string, err, class error) {
			t.Helper()
			if !errors.Is(err, class) {
				t.Errorf("%s: %s: %v, want %v", name, what, err, class)
			}
		}
		ctx, s, until := t.Context(), open("snaps"), time.Now().Add(time.Hour)
		is("can lock", s.CanLock(ctx), nil)
		is("cannot lock", open("plain").CanLock(ctx), errs.ErrInvalid)
		is("no bucket", open("nobody").CanLock(ctx), errs.ErrInvalid)
		is("put where nothing is locked", open("plain").PutLocked(ctx, "a", []byte("x"), objectstore.Lock{Until: until, Mode: objectstore.Governance}), errs.ErrInvalid)
		is("put", s.PutLocked(ctx, "a", []byte("one"), objectstore.Lock{Until: until, Mode: objectstore.Governance}), nil)
		is("put again", s.PutLocked(ctx, "a", []byte("two"), objectstore.Lock{Until: until, Mode: objectstore.Governance}), errs.ErrExists)
		is("put anew", s.PutNew(ctx, "a", []byte("two")), errs.ErrExists)
		is("delete", s.Delete(ctx, "a"), objectstore.ErrLocked)
		is("extend by nothing", s.Extend(ctx, "a", objectstore.Lock{Until: until.Add(-time.Minute), Mode: objectstore.Governance}), nil)
		is("extend", s.Extend(ctx, "a", objectstore.Lock{Until: until.Add(time.Hour), Mode: objectstore.Compliance}), nil)
		if i, err := s.Head(ctx, "a"); err != nil || i.Lock.Until.Before(until.Add(time.Hour)) || i.Lock.Mode != objectstore.Governance {
			t.Errorf("%s: %+v %v", name, i, err)
		}
		for _, body := range []string{"one", "two"} {
			is("put a mark", s.Put(ctx, "mark", []byte(body)), nil)
		}
		is("delete a mark", s.Delete(ctx, "mark"), nil)
		for v := range c.ListObjectsIter(ctx, "snaps", minio.ListObjectsOptions{Prefix: "here/mark", WithVersions: true, Recursive: true}) {
			t.Errorf("%s: a version of the mark is left: %+v", name, v)
		}
	}
}

// Without this a stolen key of the bucket, or a mistake, would be the end of the archive: what is locked is there whatever a plain client does.
func TestLockedArchiveInS3(t *testing.T) {
	needTools(t, "qemu-io", "nbdcopy", "openssl", "go")
	g := withVersions(t, needS3(t))
	plain, key, overlay := g.plainClient(t), filepath.Join(g.dir, "key"), filepath.Join(g.dir, "overlay.yaml")
	must(t, os.WriteFile(key, []byte(strings.Repeat("c5", 32)), 0o600))
	must(t, os.WriteFile(overlay, []byte("archive: {key_command: [cat, "+key+"]}\n"), 0o600))
	c, err := cluster.Start(cluster.Options{Allowed: cluster.Faults, Args: []string{"--metad", "1", "--blockd", "2", "--store-size", "1GiB", "--s3", "https://" + g.address + "/snaps/here", "--s3-credentials", g.credentials, "--s3-ca", g.cert, "--s3-lock", "1h", "--snapshotd-config", overlay}})
	must(t, err)
	t.Cleanup(func() { must(t, c.Stop(t.Failed())) })
	c.Hide(strings.Repeat("c5", 32), "what the archive is encrypted with")
	disk(t, c, "kept", "16MiB")
	file := scratch(t, "image")
	b := make([]byte, 4<<20)
	_, err = rand.Read(b[:2<<20]) // the other half is zeros, which compress
	must(t, err)
	must(t, os.WriteFile(file, b, 0o600))
	for i, name := range []string{"one", "two"} {
		run(t, "qemu-io", "-f", "raw", "-c", "write -s "+file+" "+[]string{"0 4M", "8M 1M"}[i], endpoints(t, c, "kept").Unix)
		snapshot(t, c, "kept", name)
		ashlar(t, c, "snapshot", "archive", "kept@"+name, "--wait")
	}
	t.Logf("archive list:\n%s", ashlar(t, c, "archive", "list"))
	if text := ashlar(t, c, "snapshot", "verify", "kept@two"); !strings.Contains(text, "locked until") || strings.Contains(text, "not locked for as long") {
		t.Errorf("verify says: %s", text)
	}
	must(t, cluster.Wait("a locked backup of metad", patience, func() bool { return backupsMade(t, c) > 0 }))
	lockedCopy(t, c, g)
	readByPlainTools(t, c, plain, "snaps", key)
	readByPlainTools(t, c, plain, "copies", key)
	refusedToDelete(t, c)
	vandal(t, plain, "snaps")
	vandal(t, plain, "copies")
	readByPlainTools(t, c, plain, "copies", key)
	ashlar(t, c, "archive", "gc", "--grace", "1m")
	for _, name := range []string{"one", "two"} {
		ashlar(t, c, "snapshot", "verify", "kept@"+name)
	}
	ashlar(t, c, "metad", "backups", "fetch", scratch(t, "state"))
	refusedToStart(t, c, g)
	dropSnapshots(t, c, "kept")
}

// backupsMade is how many backups of metad are said to be in the archive: one that is not locked yet does not count.
func backupsMade(t *testing.T, c *cluster.Cluster) int {
	t.Helper()
	var s struct{ Backup struct{ Count int } }
	must(t, c.JSON(&s, "status"))
	return s.Backup.Count
}

// lockedCopy copies the newer snapshot into another bucket, and again for longer. A bucket that cannot lock is refused before anything is there.
func lockedCopy(t *testing.T, c *cluster.Cluster, g *gateway) {
	t.Helper()
	to := func(bucket, lock string) []string {
		return []string{"snapshot", "copy", "kept@two", "--to", "https://" + g.address + "/" + bucket + "/here", "--credentials", g.credentials, "--ca", g.cert, "--lock", lock}
	}
	var first, again struct {
		Objects, Found int
		LockedUntil    time.Time
	}
	must(t, c.JSON(&first, to("copies", "1h")...))
	must(t, c.JSON(&again, to("copies", "2h")...))
	if first.Objects == 0 || again.Found != first.Objects || !again.LockedUntil.After(first.LockedUntil.Add(30*time.Minute)) {
		t.Errorf("copied %+v, then %+v", first, again)
	}
	if r, err := c.CLI(to("plain", "1h")...); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "has no object lock") {
		t.Errorf("a locked copy into a bucket that cannot lock: %v %+v", err, r)
	}
}

// readByPlainTools brings an encrypted, compressed, incremental archive back from S3 with nothing of Ashlar: a client of S3 that copies
// objects into a folder, and the program of FORMAT.md.
func readByPlainTools(t *testing.T, c *cluster.Cluster, plain *minio.Client, bucket, key string) {
	t.Helper()
	dir, tool, out := t.TempDir(), scratch(t, "restore"), scratch(t, "restored")
	for o := range plain.ListObjectsIter(t.Context(), bucket, minio.ListObjectsOptions{Prefix: "here/", Recursive: true}) {
		must(t, o.Err)
		must(t, plain.FGetObject(t.Context(), bucket, o.Key, filepath.Join(dir, strings.TrimPrefix(o.Key, "here/")), minio.GetObjectOptions{}))
	}
	a := inArchive(t, c, "kept", "two")
	run(t, "go", "build", "-o", tool, "ashlar.dev/pkg/archive/restore")
	run(t, tool, dir, a.Manifest, out, key)
	uri := endpoints(t, c, "kept").Unix
	id := filepath.Base(strings.SplitN(uri, "?", 2)[0])
	if got, want := sumOfFile(t, out), sumOf(t, exported(uri, id, "kept@two")); got != want || a.Base == "" {
		t.Errorf("read by plain tools from %s, archived against %q: %s, is %s", bucket, a.Base, got, want)
	}
}

// refusedToDelete asks for what is locked to be deleted: nothing is done, neither there nor in the cluster.
func refusedToDelete(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	r, err := c.CLI("archive", "delete", "kept@one")
	must(t, err)
	if r.Code == 0 || !strings.Contains(string(r.Stderr), "locked until") {
		t.Errorf("what is locked is deleted: %d %s", r.Code, r.Stderr)
	}
	var x struct{ State string }
	if must(t, c.JSON(&x, "snapshot", "archive", "kept@one")); x.State != "archived" {
		t.Errorf("after the refusal the snapshot is %q", x.State)
	}
}

// vandal deletes and overwrites everything, as far as the server lets it, and then takes what hides the true versions away.
func vandal(t *testing.T, c *minio.Client, bucket string) {
	t.Helper()
	ctx, locked := t.Context(), make(map[string]int)
	versions := func(f func(is minio.ObjectInfo, kind string)) {
		for v := range c.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Prefix: "here/", WithVersions: true, Recursive: true}) {
			must(t, v.Err)
			if kind := strings.Split(v.Key, "/")[1]; kind == "data" || kind == "manifests" || kind == "metad" {
				f(v, kind)
			}
		}
	}
	versions(func(v minio.ObjectInfo, kind string) {
		if c.RemoveObject(ctx, bucket, v.Key, minio.RemoveObjectOptions{VersionID: v.VersionID}) == nil {
			t.Errorf("%s was deleted", v.Key)
		}
		locked[kind]++
	})
	if locked["data"] < 2 || locked["manifests"] == 0 || bucket == "snaps" && locked["metad"] == 0 {
		t.Errorf("in %s are %v", bucket, locked)
	}
	mine := make(map[string]bool)
	versions(func(v minio.ObjectInfo, _ string) {
		i, err := c.PutObject(ctx, bucket, v.Key, bytes.NewReader([]byte("spoilt")), 6, minio.PutObjectOptions{})
		must(t, err)
		must(t, c.RemoveObject(ctx, bucket, v.Key, minio.RemoveObjectOptions{}))
		mine[v.Key+i.VersionID] = true
	})
	versions(func(v minio.ObjectInfo, _ string) {
		if v.IsDeleteMarker || mine[v.Key+v.VersionID] {
			must(t, c.RemoveObject(ctx, bucket, v.Key, minio.RemoveObjectOptions{VersionID: v.VersionID}))
		}
	})
}

// refusedToStart starts a snapshotd whose bucket cannot lock.
func refusedToStart(t *testing.T, c *cluster.Cluster, g *gateway) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.Dir, "config", "s1.yaml"))
	must(t, err)
	file := filepath.Join(g.dir, "other.yaml")
	must(t, os.WriteFile(file, []byte(strings.Replace(string(text), "bucket: snaps", "bucket: plain", 1)), 0o600))
	bin, err := cluster.BinDir()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "snapshotd"), "-config", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "has no object lock") {
		t.Errorf("a snapshotd whose bucket cannot lock: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}
