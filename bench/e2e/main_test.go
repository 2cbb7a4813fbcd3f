//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ashlar.dev/bench/e2e/cluster"
)

// The two clusters that most tests share, each started when it is first asked for: one on which
// nothing is broken, one on which daemons die.
var calm, faulty sharedCluster

type sharedCluster struct {
	once sync.Once
	c    *cluster.Cluster
	err  error
	bad  bool // a test that used it failed
}

func (s *sharedCluster) get(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	s.once.Do(func() { s.c, s.err = cluster.Start(o) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	t.Cleanup(func() { s.bad = s.bad || t.Failed() })
	return s.c
}

func (s *sharedCluster) stop() error {
	if s.c == nil || s.err != nil {
		return nil
	}
	// A disk that goes away while its blockd drains would be complained about.
	err := cluster.Wait("deleted disks to be gone", patience, func() bool {
		st, err := s.c.Status()
		return err == nil && st.Counts.DisksDeleted == 0
	})
	return errors.Join(err, s.c.Stop(s.bad))
}

func TestMain(m *testing.M) {
	code := m.Run()
	for name, s := range map[string]*sharedCluster{"calm": &calm, "faulty": &faulty} {
		if err := s.stop(); err != nil {
			fmt.Fprintf(os.Stderr, "--- FAIL: the %s cluster\n%v\n", name, err)
			code = 1
		}
	}
	os.Exit(code)
}

// patience is for what must come, on a slow machine with other work.
const patience = 60 * time.Second

// undisturbed is the cluster on which nothing is broken. Over TCP it lets in nobody without a certificate.
func undisturbed(t *testing.T) *cluster.Cluster {
	t.Helper()
	return calm.get(t, cluster.Options{Args: []string{"--blockd-config", "testdata/calm.yaml"}})
}

// disk makes a disk that goes with the test.
func disk(t *testing.T, c *cluster.Cluster, name, size string) cluster.Disk {
	t.Helper()
	d, err := c.Create(name, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			return // somebody may want to look at it
		}
		if err := cluster.Wait("disk "+name+" to be deleted", patience, func() bool {
			r, err := c.CLI("disk", "delete", name, "--force")
			return err == nil && r.Code == 0
		}); err != nil {
			t.Error(err)
		}
	})
	return d
}

// endpoints tell where a disk is served.
func endpoints(t *testing.T, c *cluster.Cluster, name string) cluster.Endpoints {
	t.Helper()
	e, err := c.NBD(name)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// scratch is a file's path in a folder of the test's own, on a real disk.
func scratch(t *testing.T, name string) string { return filepath.Join(t.TempDir(), name) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
