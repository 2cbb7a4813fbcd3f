package state

import (
	"encoding/binary"
	"slices"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// CordonHost keeps what is new off a host, or lets it come again. What is there stays, and
// so does the cordon when the host registers anew.
type CordonHost struct {
	Host id.Host
	On   bool
}

// Cordoned tells whether nothing new is to be placed on a host.
func (m *Machine) Cordoned(h id.Host) bool {
	_, on := m.cordons[h]
	return on
}

func (m *Machine) cordonHost(c *CordonHost) Result {
	if _, known := m.hosts[c.Host]; !known {
		return refuse(errs.ErrNotFound, "host %s", c.Host)
	}
	if c.On {
		m.cordons[c.Host] = struct{}{}
	} else {
		delete(m.cordons, c.Host)
	}
	return Result{}
}

func (*CordonHost) kind() kind { return kindCordonHost }

func (c *CordonHost) append(b []byte) []byte {
	return appendBool(codec.AppendString(b, string(c.Host)), c.On)
}

func (c *CordonHost) read(r *codec.Reader) {
	c.Host, c.On = id.Host(r.String(id.HostMax)), readBool(r)
}

// appendCordons is the part of a snapshot that came with LevelCordon.
func (m *Machine) appendCordons(b []byte) []byte {
	names := make([]id.Host, 0, len(m.cordons))
	for h := range m.cordons {
		names = append(names, h)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, h := range names {
		b = codec.AppendString(b, string(h))
	}
	return b
}

func (m *Machine) readCordons(r *codec.Reader) {
	for n := r.Count(HostsMax, 1); n > 0 && r.Err() == nil; n-- {
		m.cordons[id.Host(r.String(id.HostMax))] = struct{}{}
	}
}
