package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// wires are the namespaces of a fleet, their links and the bridge.
type wires struct {
	pid int
	ids []string
}

const (
	netnsDir     = "/run/netns"
	bridgePrefix = "ashbr"
)

func (w wires) bridge() string          { return fmt.Sprintf("%s%d", bridgePrefix, w.pid) }
func (w wires) name(id string) string   { return fmt.Sprintf("ashlar-%d-%s", w.pid, id) }
func (w wires) path(id string) string   { return filepath.Join(netnsDir, w.name(id)) }
func (w wires) link(id string) string   { return fmt.Sprintf("ash%d%s", w.pid, id) }
func (w wires) subnet() string          { return fmt.Sprintf("10.%d.%d.", 64+w.pid%128, w.pid/128%256) }
func (w wires) address(i string) string { return w.subnet() + strconv.Itoa(10+w.index(i)) }

func (w wires) index(id string) int {
	for i, x := range w.ids {
		if x == id {
			return i
		}
	}
	panic("fleet: no daemon " + id)
}

// newWires makes a namespace for each id, all on one bridge, of which we are part too.
func newWires(ids []string) (wires, error) {
	w := wires{pid: os.Getpid(), ids: ids}
	if err := sweep(); err != nil {
		return w, err
	}
	steps := [][]string{
		{"link", "add", w.bridge(), "type", "bridge"},
		{"addr", "add", w.subnet() + "1/24", "dev", w.bridge()},
		{"link", "set", w.bridge(), "up"},
	}
	for _, id := range ids {
		ns := w.name(id)
		steps = append(steps, []string{"netns", "add", ns},
			[]string{"link", "add", w.link(id), "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"link", "set", w.link(id), "master", w.bridge(), "up"},
			[]string{"-n", ns, "addr", "add", w.address(id) + "/24", "dev", "eth0"},
			[]string{"-n", ns, "link", "set", "eth0", "up"},
			[]string{"-n", ns, "link", "set", "lo", "up"})
	}
	for _, s := range steps {
		if err := command("", "ip", s...); err != nil {
			return w, fmt.Errorf("make network: %w", err)
		}
	}
	return w, nil
}

// close takes down what newWires made, as far as it came.
func (w wires) close() error {
	if w.pid == 0 {
		return nil
	}
	var all error
	for _, id := range w.ids {
		if _, err := os.Stat(w.path(id)); err == nil {
			all = errors.Join(all, command("", "ip", "netns", "del", w.name(id)))
		}
	}
	if _, err := os.Stat("/sys/class/net/" + w.bridge()); err == nil {
		all = errors.Join(all, command("", "ip", "link", "del", w.bridge()))
	}
	return all
}

// cut drops what comes from the others and, unless oneWay, what goes to them.
func (w wires) cut(id string, from []string, oneWay bool) error {
	var addresses []string
	for _, x := range from {
		if x != id {
			addresses = append(addresses, w.address(x))
		}
	}
	set := "{ " + strings.Join(addresses, ", ") + " }"
	rules := fmt.Sprintf("table ip cut {\n chain in { type filter hook input priority 0; policy accept; ip saddr %s drop; }\n", set)
	if !oneWay {
		rules += fmt.Sprintf(" chain out { type filter hook output priority 0; policy accept; ip daddr %s drop; }\n", set)
	}
	if err := command(rules+"}\n", "ip", "netns", "exec", w.name(id), "nft", "-f", "-"); err != nil {
		return fmt.Errorf("cut %s off: %w", id, err)
	}
	return nil
}

func (w wires) mend(id string) error {
	if err := command("", "ip", "netns", "exec", w.name(id), "nft", "flush", "ruleset"); err != nil {
		return fmt.Errorf("mend %s: %w", id, err)
	}
	return nil
}

var leftover = regexp.MustCompile(`^(?:ashlar-(\d+)-[mb]\d+|` + bridgePrefix + `(\d+))$`)

// sweep removes what runs whose process is gone left behind.
func sweep() error {
	var all error
	for _, dir := range []string{netnsDir, "/sys/class/net"} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sweep: %w", err)
		}
		for _, e := range entries {
			m := leftover.FindStringSubmatch(e.Name())
			if m == nil {
				continue
			}
			pid, err := strconv.Atoi(m[1] + m[2])
			if err != nil || syscall.Kill(pid, 0) == nil {
				continue
			}
			if dir == netnsDir {
				all = errors.Join(all, command("", "ip", "netns", "del", e.Name()))
			} else {
				all = errors.Join(all, command("", "ip", "link", "del", e.Name()))
			}
		}
	}
	return all
}
