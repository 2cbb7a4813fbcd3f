package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// CLI runs one ashlar command on the cluster.
func (c *Cluster) CLI(args ...string) (Result, error) {
	cmd := exec.Command(filepath.Join(c.bin, "ashlar"), append([]string{"--data", c.Dir}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = nil
	}
	return r, err
}

// JSON runs a command that must succeed and decodes its JSON.
func (c *Cluster) JSON(out any, args ...string) error {
	r, err := c.CLI(append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("ashlar %s: exit code %d: %s", strings.Join(args, " "), r.Code, r.Stderr)
	}
	if err := json.Unmarshal([]byte(r.Stdout), out); err != nil {
		return fmt.Errorf("ashlar %s printed %q: %w", strings.Join(args, " "), r.Stdout, err)
	}
	return nil
}

// Disk is a disk as the command line prints it.
type Disk struct {
	DiskID        string `json:"diskId"`
	Name          string `json:"name"`
	SizeBytes     uint64 `json:"sizeBytes"`
	State         string `json:"state"`
	Owner         string `json:"owner"`
	Epoch         uint64 `json:"epoch"`
	UnpackedBytes uint64 `json:"unpackedBytes"`
	Problem       string `json:"problem"`
	Sessions      uint32 `json:"sessions"`
}

// Endpoint is where one blockd serves a disk.
type Endpoint struct {
	Host  string `json:"host"`
	Unix  string `json:"unix"`
	TCP   string `json:"tcp"`
	Owner bool   `json:"owner"`
	Up    bool   `json:"up"`
}

// Endpoints are where a disk is served; All has the owner first.
type Endpoints struct {
	DiskID string     `json:"diskId"`
	Unix   string     `json:"unix"`
	TCP    string     `json:"tcp"`
	All    []Endpoint `json:"all"`
}

// UnixURIs are the addresses of all unix sockets, the owner's first.
func (e Endpoints) UnixURIs() []string {
	var out []string
	for _, x := range e.All {
		out = append(out, x.Unix)
	}
	return out
}

// Status is the cluster's health.
type Status struct {
	Health  string `json:"health"`
	Reasons []struct {
		Code    string `json:"code"`
		Subject string `json:"subject"`
		Text    string `json:"text"`
	} `json:"reasons"`
	Counts struct {
		Metads       int `json:"metads"`
		MetadsUp     int `json:"metadsUp"`
		Blockds      int `json:"blockds"`
		BlockdsUp    int `json:"blockdsUp"`
		Stores       int `json:"stores"`
		StoresUp     int `json:"storesUp"`
		Disks        int `json:"disks"`
		DisksStuck   int `json:"disksStuck"`
		DisksDeleted int `json:"disksDeleting"`
	} `json:"counts"`
	CapacityBytes uint64 `json:"capacityBytes"`
	UsedBytes     uint64 `json:"usedBytes"`
	UnpackedBytes uint64 `json:"unpackedBytes"`
	Metads        []struct {
		ID     string `json:"id"`
		Leader bool   `json:"leader"`
		Up     bool   `json:"up"`
	} `json:"metads"`
	Stores []struct {
		StoreID      string `json:"storeId"`
		Host         string `json:"host"`
		State        string `json:"state"`
		UsedBytes    uint64 `json:"usedBytes"`
		LogUsedBytes uint64 `json:"logUsedBytes"`
	} `json:"stores"`
}

// Leader is the leading metad, empty while there is none.
func (s Status) Leader() string {
	for _, m := range s.Metads {
		if m.Leader && m.Up {
			return m.ID
		}
	}
	return ""
}

// Status asks for the health.
func (c *Cluster) Status() (s Status, err error) { return s, c.JSON(&s, "status") }

// Create makes a disk.
func (c *Cluster) Create(name, size string) (d Disk, err error) {
	return d, c.JSON(&d, "disk", "create", name, "--size", size)
}

// Disk shows a disk.
func (c *Cluster) Disk(name string) (d Disk, err error) { return d, c.JSON(&d, "disk", "show", name) }

// NBD tells where a disk is served.
func (c *Cluster) NBD(name string) (e Endpoints, err error) {
	return e, c.JSON(&e, "disk", "nbd", name)
}

// WaitHealthy waits until every daemon and store is up and the health is OK.
func (c *Cluster) WaitHealthy(timeout time.Duration) error {
	return c.waitStatus("health OK", timeout, func(s Status) bool { return s.Health == "OK" })
}

// WaitUp waits until every daemon and store is up and nothing else is wrong than margins
// that the placement groups made in a failure lack.
func (c *Cluster) WaitUp(timeout time.Duration) error {
	return c.waitStatus("everything to be up", timeout, func(s Status) bool {
		for _, r := range s.Reasons {
			if r.Code != "pg_reduced_margin" {
				return false
			}
		}
		return s.Health == "OK" || s.Health == "DEGRADED"
	})
}

func (c *Cluster) waitStatus(what string, timeout time.Duration, ok func(Status) bool) error {
	var last Status
	var lastErr error
	err := Wait(what, timeout, func() bool {
		last, lastErr = c.Status()
		n := last.Counts
		return lastErr == nil && ok(last) && n.MetadsUp == n.Metads && n.BlockdsUp == n.Blockds && n.StoresUp == n.Stores && n.Stores > 0 && c.accepts()
	})
	if err != nil {
		return errors.Join(fmt.Errorf("%w; it is %s (%+v) %+v", err, last.Health, last.Reasons, last.Counts), lastErr)
	}
	return nil
}

// accepts says whether every blockd takes connections. metad calls one alive that died a
// moment ago, and one that was started again before its time was up never looked dead.
func (c *Cluster) accepts() bool {
	sockets, err := filepath.Glob(filepath.Join(c.Dir, "run", "*.sock"))
	if err != nil {
		return false
	}
	for _, path := range sockets {
		conn, err := net.Dial("unix", path)
		if err != nil {
			return false
		}
		_ = conn.Close() // it said nothing
	}
	return true
}
