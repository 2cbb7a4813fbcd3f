package state

import (
	"fmt"
	"slices"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Apply carries out the command at index, or refuses it; either way the state is the
// one after index. An index at or below the last is a bug of the caller and panics:
// it would apply a command twice.
func (m *Machine) Apply(index uint64, c Command) Result {
	if index <= m.index {
		panic(fmt.Sprintf("state: apply index %d after %d", index, m.index))
	}
	m.index = index
	if init, ok := c.(*Init); ok {
		return m.init(init)
	}
	if m.clusterID == [16]byte{} {
		return refuse(errs.ErrUnavailable, "the cluster has no id yet")
	}
	if err := m.Ready(c); err != nil {
		return Result{Err: err}
	}
	if m.Rebuilding() && !duringRebuild(c) {
		return refuse(errs.ErrUnavailable, "the state is being rebuilt from what the stores have; see ashlar metad rebuild")
	}
	switch c := c.(type) {
	case *RegisterHost:
		return m.registerHost(c)
	case *CreateVolume:
		return m.createVolume(c)
	case *ResizeVolume:
		return m.resizeVolume(c)
	case *SetQoS:
		return m.setQoS(c)
	case *DeleteVolume:
		return m.deleteVolume(c)
	case *Acquire:
		return m.acquire(c)
	case *Release:
		return m.release(c)
	case *AddEnsemble:
		return m.addEnsemble(c)
	case *CloseEnsemble:
		return m.closeEnsemble(c)
	case *RemoveEnsembles:
		return m.removeEnsembles(c)
	case *ReplaceList:
		return m.replaceList(c)
	case *AllocRange:
		return m.allocRange(c)
	case *ForgetSpans:
		return m.forgetSpans(c)
	case *CommitCheckpoint:
		return m.commitCheckpoint(c)
	case *EnsurePlacement:
		return m.ensurePlacement(c)
	case *ConfirmPurge:
		return m.confirmPurge(c)
	case *LoseStore:
		return m.loseStore(c)
	case *AcceptLoss:
		return m.acceptLoss(c)
	case *MarkStore:
		return m.markStore(c)
	case *MoveGroup:
		return m.moveGroup(c)
	case *ForgetVersions:
		return m.forgetVersions(c)
	case *RemoveStore:
		return m.removeStore(c)
	}
	for _, apply := range []func(Command) (Result, bool){m.applyRoster, m.applySnapshot, m.applySnapGroup, m.applyPolicies, m.applyLineage, m.applyImages, m.applyHealing, m.applyRestored, m.applyArchive, m.applyFlatten, m.applyKept, m.applyTrash, m.applyTellArchives, m.applyRemoveHost} {
		if r, ok := apply(c); ok {
			return r
		}
	}
	panic(fmt.Sprintf("state: command %T has no rule", c))
}

// refuse makes the result of a command that changed nothing.
func refuse(class error, format string, args ...any) Result {
	return Result{Err: fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), class)}
}

// refuseWith is refuse with the record in force.
func refuseWith(v *Volume, class error, format string, args ...any) Result {
	r := refuse(class, format, args...)
	r.Volume = v
	return r
}

func (m *Machine) init(c *Init) Result {
	if m.clusterID != [16]byte{} {
		return refuse(errs.ErrExists, "the cluster has an id")
	}
	s := c.Settings
	if c.ClusterID == [16]byte{} || s.LeaseTerm <= 0 || s.HeartbeatInterval <= 0 || s.HeartbeatTimeout <= s.HeartbeatInterval || s.RangeCount == 0 {
		return refuse(errs.ErrInvalid, "cluster id or settings are not set")
	}
	m.clusterID, m.settings = c.ClusterID, c.Settings
	return Result{}
}

// put makes v the record in force.
func (m *Machine) put(v *Volume) Result {
	m.count(m.volumes[v.ID], false)
	m.volumes[v.ID] = v
	m.count(v, true)
	return Result{Volume: v}
}

// drop forgets a record.
func (m *Machine) drop(v *Volume) Result {
	m.count(m.volumes[v.ID], false)
	delete(m.volumes, v.ID)
	return Result{Volume: v}
}

// count keeps what is derived from the records.
func (m *Machine) count(v *Volume, present bool) {
	if v == nil {
		return
	}
	if v.Deleted && present {
		m.deleted[v.ID] = struct{}{}
	} else {
		delete(m.deleted, v.ID)
	}
	m.countKept(v, present)
	m.countTrash(v, present)
	m.countSnapshots(v, present)
	m.countArchives(v, present)
	m.countChildren(v, present)
	for _, e := range v.List {
		if e.Closed {
			continue
		}
		for _, s := range e.Stores {
			switch {
			case present:
				m.inUse[s]++
			case m.inUse[s] > 1:
				m.inUse[s]--
			default:
				delete(m.inUse, s)
			}
		}
	}
}

// owned finds the record on which the owner under epoch e may act, or refuses.
func (m *Machine) owned(v id.Volume, e id.Epoch) (*Volume, Result) {
	x, ok := m.volumes[v]
	switch {
	case !ok:
		return nil, refuse(errs.ErrNotFound, "volume %s", v)
	case e != x.Epoch || x.Deleted:
		return nil, refuseWith(x, errs.ErrStaleEpoch, "volume %s is at %s, not %s", v, x.Epoch, e)
	case x.Owner == id.Holder{}:
		return nil, refuseWith(x, errs.ErrStaleEpoch, "volume %s was released at %s", v, e)
	}
	return x, Result{}
}

func (m *Machine) acquire(c *Acquire) Result {
	v, ok := m.volumes[c.Volume]
	if !ok || v.Deleted {
		return refuse(errs.ErrNotFound, "volume %s", c.Volume)
	}
	host := m.hosts[c.By.Host]
	switch {
	case host == nil || c.By.Number > host.HolderNumber:
		return refuse(errs.ErrConflict, "host %s is not registered with life %d", c.By.Host, c.By.Number)
	case c.By.Number < host.HolderNumber:
		return refuse(errs.ErrStaleEpoch, "host %s has a newer life than %d", c.By.Host, c.By.Number)
	case !m.mayTake(v, c):
		return Result{Volume: v, Owner: v.Owner}
	}
	v = v.clone()
	// An owner that completed its open may have served, and may still; one that did not, never did.
	if v.OpenComplete && !slices.Contains(v.Prior, v.Owner.Host) {
		v.Prior = append(v.Prior, v.Owner.Host)
		slices.Sort(v.Prior)
	}
	v.Epoch++
	v.Owner, v.OpenComplete, v.lastN = c.By, false, 0
	// No list can become that of an opening that broke off: kept, such targets would fill it
	// up, and no opening could add its own.
	if kept := cluster.InForce(v.List); len(kept) < len(v.List) {
		v.List = kept
		v.ListVersion++
	}
	return m.put(v)
}

// mayTake: nobody owns it; or the same host asks, in this life or a later one; or the
// owner's life is over; or the leader has not heard of it for too long.
func (m *Machine) mayTake(v *Volume, c *Acquire) bool {
	owner := v.Owner
	if (owner == id.Holder{}) || owner == c.Gone || owner.Host == c.By.Host {
		return true
	}
	h := m.hosts[owner.Host]
	return h != nil && h.HolderNumber > owner.Number
}

func (m *Machine) release(c *Release) Result {
	v, ok := m.volumes[c.Volume]
	switch {
	case !ok:
		return refuse(errs.ErrNotFound, "volume %s", c.Volume)
	case v.Epoch != c.Epoch:
		return refuseWith(v, errs.ErrStaleEpoch, "volume %s is at %s, not %s", c.Volume, v.Epoch, c.Epoch)
	case v.Owner == id.Holder{}:
		return Result{Volume: v}
	case v.Owner != c.By:
		return refuseWith(v, errs.ErrConflict, "volume %s is owned by %s", c.Volume, v.Owner)
	}
	v = v.clone()
	v.settle()
	v.Owner, v.OpenComplete = id.Holder{}, false
	return m.put(v)
}

func (m *Machine) allocRange(c *AllocRange) Result {
	v, r := m.owned(c.Volume, c.Epoch)
	if v == nil {
		return r
	}
	first, count := m.nextSequence, m.settings.RangeCount
	if id.SequenceMax-first < id.Sequence(count) {
		return refuse(errs.ErrNoSpace, "segment sequences are used up")
	}
	v = v.clone()
	end := first + id.Sequence(count)
	if n := len(v.Spans); n > 0 && v.Spans[n-1].Epoch == c.Epoch {
		v.Spans[n-1].End = end
	} else if n >= SpansMax {
		return refuse(errs.ErrNoSpace, "volume %s has too many spans that were not forgotten", c.Volume)
	} else {
		v.Spans = append(v.Spans, cluster.Span{Epoch: c.Epoch, First: first, End: end})
	}
	m.nextSequence = end
	r = m.put(v)
	r.First, r.Count = first, count
	return r
}

func (m *Machine) forgetSpans(c *ForgetSpans) Result {
	v, r := m.owned(c.Volume, c.Epoch)
	if v == nil {
		return r
	}
	if c.Below > c.Epoch || !v.OpenComplete {
		return refuseWith(v, errs.ErrConflict, "volume %s: spans are forgotten below the own epoch, once open", c.Volume)
	}
	v = v.clone()
	v.Spans = slices.DeleteFunc(v.Spans, func(s cluster.Span) bool { return s.Epoch < c.Below })
	return m.put(v)
}

// commitCheckpoint: only an owner whose open is complete, and only upwards. Before
// that, a checkpoint found in the meta stream may stand on one store alone.
func (m *Machine) commitCheckpoint(c *CommitCheckpoint) Result {
	v, r := m.owned(c.Volume, c.Epoch)
	if v == nil {
		return r
	}
	cp := c.Checkpoint
	last := v.Checkpoint
	switch {
	case cp.Epoch == 0 || cp.Epoch > c.Epoch:
		return refuse(errs.ErrInvalid, "checkpoint of %s committed under %s", cp.Epoch, c.Epoch)
	case !v.OpenComplete:
		return refuseWith(v, errs.ErrConflict, "volume %s is not open yet", c.Volume)
	case last != nil && last.Epoch == cp.Epoch && last.Meta == cp.Meta && last.Covered == cp.Covered && string(last.Opaque) == string(cp.Opaque):
		return Result{Volume: v}
	case last != nil && !cp.Above(*last):
		return refuseWith(v, errs.ErrConflict, "checkpoint {%s, %d} is not above {%s, %d}", cp.Epoch, cp.Meta, last.Epoch, last.Meta)
	}
	v = v.clone()
	cp.Opaque = slices.Clone(cp.Opaque)
	v.Checkpoint = &cp
	return m.put(v)
}
