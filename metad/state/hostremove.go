package state

import (
	"encoding/binary"
	"maps"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// RemoveHost takes a host that has nothing any more off the list, for good: what its
// certificates were made for until now opens nothing, whoever has their keys.
type RemoveHost struct {
	Host   id.Host
	Number uint64 // its life that is believed to be over; a newer one stays
	AtMS   int64  // certificates issued until then are refused
}

// RemovedMax bounds the names that are remembered; beyond it the ones removed first are
// forgotten. A certificate lives for a year at most.
const RemovedMax = 4096

const kindRemoveHost kind = 240

// Removed are the hosts that were removed, by name.
func (m *Machine) Removed() []cluster.RemovedHost {
	out := make([]cluster.RemovedHost, 0, len(m.removed))
	for _, h := range slices.Sorted(maps.Keys(m.removed)) {
		out = append(out, cluster.RemovedHost{Host: h, AtMS: m.removed[h]})
	}
	return out
}

// RemovedAt tells when the host of a name was removed last, in ms; 0: never.
func (m *Machine) RemovedAt(h id.Host) int64 { return m.removed[h] }

// removeHost refuses while anything is led to the host: a store by placement and readers, a
// disk by its clients, an application by the policy that freezes it.
func (m *Machine) removeHost(c *RemoveHost) Result {
	h := m.hosts[c.Host]
	switch {
	case h == nil:
		return refuse(errs.ErrNotFound, "host %s", c.Host)
	case h.HolderNumber != c.Number:
		return refuse(errs.ErrConflict, "host %s was started anew", c.Host)
	case c.AtMS <= 0:
		return refuse(errs.ErrInvalid, "host %s is removed at no time", c.Host)
	}
	for _, s := range m.Stores() {
		if s.Host == c.Host {
			return refuse(errs.ErrConflict, "store %s is on host %s", s.Store, c.Host)
		}
	}
	for _, v := range m.Volumes() {
		if v.Owner.Host == c.Host {
			return refuse(errs.ErrConflict, "host %s owns disk %s", c.Host, v.Name)
		}
	}
	for _, p := range m.Policies() {
		for _, x := range p.Hooks {
			if x.Host == c.Host {
				return refuse(errs.ErrConflict, "policy %s freezes an application on host %s", p.Name, c.Host)
			}
		}
	}
	delete(m.hosts, c.Host)
	delete(m.cordons, c.Host)
	m.removed[c.Host] = max(c.AtMS, m.removed[c.Host])
	for len(m.removed) > RemovedMax {
		delete(m.removed, m.removedFirst())
	}
	return Result{}
}

func (m *Machine) removedFirst() (first id.Host) {
	for _, x := range m.Removed() {
		if at, ok := m.removed[first]; !ok || x.AtMS < at {
			first = x.Host
		}
	}
	return first
}

func emptyRemoveHost(k kind) Command {
	if k == kindRemoveHost {
		return &RemoveHost{}
	}
	return nil
}

func (m *Machine) applyRemoveHost(c Command) (Result, bool) {
	if c, ok := c.(*RemoveHost); ok {
		return m.removeHost(c), true
	}
	return Result{}, false
}

func (*RemoveHost) kind() kind { return kindRemoveHost }

func (c *RemoveHost) append(b []byte) []byte {
	b = codec.AppendString(b, string(c.Host))
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, c.Number), uint64(c.AtMS))
}

func (c *RemoveHost) read(r *codec.Reader) {
	c.Host, c.Number, c.AtMS = id.Host(r.String(id.HostMax)), r.U64(), int64(r.U64())
}

// appendRemoved is part of a snapshot from LevelArchives on.
func (m *Machine) appendRemoved(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(m.removed)))
	for _, x := range m.Removed() {
		b = binary.LittleEndian.AppendUint64(codec.AppendString(b, string(x.Host)), uint64(x.AtMS))
	}
	return b
}

func (m *Machine) readRemoved(r *codec.Reader) {
	for n := r.Count(RemovedMax, 9); n > 0 && r.Err() == nil; n-- {
		h := id.Host(r.String(id.HostMax))
		m.removed[h] = int64(r.U64())
	}
}
