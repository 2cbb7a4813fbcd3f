package consensus

import (
	"encoding/hex"

	"ashlar.dev/metad/state"
)

// A group that begins anew from a backup shares names, addresses and certificates with the
// one before. A member of that one, coming back with its data, could make its log the
// group's, or win an election in the old configuration together with another; both would
// undo what the new group granted. So each member remembers the lineage of its data, and
// connections are opened only between members of one lineage. A member without data
// speaks to any, and takes the lineage of what it is sent.

var lineageKey = []byte("Lineage")

const (
	lineagePrefix = "ashlar-raft-"
	lineageFirst  = "first" // of a group that was founded
)

// loadLineage reads what the member remembers.
func (n *Node) loadLineage() error {
	v, err := n.store.Get(lineageKey)
	if err != nil || len(v) == 0 {
		return err
	}
	text := hex.EncodeToString(v)
	n.line.Store(&text)
	return nil
}

// keepLineage remembers that of a state that was restored.
func (n *Node) keepLineage(m *state.Machine) {
	r := m.Rebuild()
	if r == nil {
		return
	}
	text := hex.EncodeToString(r.ID[:])
	if have := n.line.Load(); have != nil && *have == text {
		return
	}
	if err := n.store.Set(lineageKey, r.ID[:]); err != nil {
		n.fail(err)
		return
	}
	n.line.Store(&text)
}

// protocols are what a connection must agree on; none: anything goes.
func (n *Node) protocols() []string {
	if text := n.line.Load(); text != nil {
		return []string{lineagePrefix + *text}
	}
	if last, err := n.store.LastIndex(); err != nil || last == 0 && !n.hadState {
		return nil
	}
	return []string{lineagePrefix + lineageFirst}
}
