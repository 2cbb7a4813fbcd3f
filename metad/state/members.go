package state

import (
	"slices"
	"strings"
	"time"

	"ashlar.dev/metad/placement"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/lineage"
)

// PlainName tells whether s is 1 to max letters, digits, '-', '_' and '.', the first a
// letter or digit: what hosts, zones and disks may be called.
func PlainName(s string, max int) bool {
	if s == "" || len(s) > max || strings.ContainsAny(s[:1], "-_.") {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
	}) < 0
}

func (m *Machine) registerHost(c *RegisterHost) Result {
	old := m.hosts[c.Holder.Host]
	switch {
	case !PlainName(string(c.Holder.Host), id.HostMax) || c.Holder.Number == 0 || c.Zone != "" && !PlainName(c.Zone, NameMax):
		return refuse(errs.ErrInvalid, "host %q with life %d in zone %q", c.Holder.Host, c.Holder.Number, c.Zone)
	case len(c.DataAddress) > AddressMax || len(c.NBDUnixPath) > AddressMax || len(c.NBDTCP) > AddressMax || len(c.Stores) > StoresPerHostMax:
		return refuse(errs.ErrInvalid, "host %s: an address is over %d bytes or there are more than %d stores", c.Holder.Host, AddressMax, StoresPerHostMax)
	case old != nil && old.HolderNumber > c.Holder.Number:
		return refuse(errs.ErrStaleEpoch, "host %s has life %d", c.Holder.Host, old.HolderNumber)
	case old == nil && len(m.hosts) >= HostsMax:
		return refuse(errs.ErrNoSpace, "there are %d hosts", len(m.hosts))
	}
	h := c.host()
	m.hosts[h.Host] = &h
	refused := make(map[id.Store]string)
	for _, s := range c.Stores {
		if why := m.registerStore(h.Host, s); why != "" {
			refused[s.Store] = why
		}
	}
	return Result{Refused: refused}
}

// registerStore takes one store, or says why not.
func (m *Machine) registerStore(h id.Host, s RegisterStore) string {
	have := m.stores[s.Store]
	_, replaced := m.lost[s.StoreRef]
	switch {
	case s.Store.IsZero() || s.Incarnation.IsZero():
		return "the store has no id"
	case replaced:
		return "this memory of the store was removed, or replaced by a newer one; format it anew"
	case have == nil:
		if len(m.stores) >= StoresMax {
			return "there are too many stores"
		}
		m.stores[s.Store] = &Store{StoreRef: s.StoreRef, Host: h, Capacity: s.Capacity}
		m.mustPurge(s.StoreRef)
		return ""
	case have.Host != h && !have.Lost && !s.MayMove:
		return "the store is in service on host " + string(have.Host)
	case have.Incarnation == s.Incarnation && have.Lost:
		return "the store was declared lost; format it anew"
	case have.Incarnation != s.Incarnation && len(m.lost) >= LostMax:
		return "too many lost stores are remembered"
	}
	next := *have
	next.Host, next.Capacity = h, s.Capacity
	if have.Incarnation != s.Incarnation {
		// Another incarnation is another memory: what the old one held is gone.
		m.lost[have.StoreRef] = struct{}{}
		m.stores[s.Store] = &Store{StoreRef: s.StoreRef, Host: h, Capacity: s.Capacity}
		m.purged(have.StoreRef, func(*Volume) bool { return true })
		m.mustPurge(s.StoreRef)
		return ""
	}
	m.stores[s.Store] = &next
	return ""
}

func (m *Machine) loseStore(c *LoseStore) Result {
	s := m.stores[c.Store.Store]
	switch {
	case s == nil:
		return refuse(errs.ErrNotFound, "store %s", c.Store)
	case s.Incarnation != c.Store.Incarnation:
		return refuse(errs.ErrConflict, "store %s has another memory", c.Store)
	case s.Lost:
		return Result{}
	}
	lost := *s
	lost.Lost = true
	m.stores[s.Store] = &lost
	m.purged(s.StoreRef, func(*Volume) bool { return true })
	return Result{}
}

// mustPurge adds a new memory to the deletions under way: an owner that does not know
// yet that its volume is gone may write to the newcomer.
func (m *Machine) mustPurge(r cluster.StoreRef) {
	for _, v := range m.Deleted() {
		v = v.clone()
		v.purging = append(v.purging, r)
		slices.SortFunc(v.purging, compareRefs)
		m.put(v)
	}
}

// purged takes a memory off the deletions that which picks, and drops the records
// that wait for nobody.
func (m *Machine) purged(r cluster.StoreRef, which func(*Volume) bool) {
	for _, v := range m.Deleted() {
		i := slices.Index(v.purging, r)
		if i < 0 || !which(v) {
			continue
		}
		v = v.clone()
		v.purging = slices.Delete(v.purging, i, i+1)
		m.putDeleted(v)
	}
}

func (m *Machine) putDeleted(v *Volume) Result {
	if len(v.purging) == 0 {
		return m.drop(v)
	}
	return m.put(v)
}

func (m *Machine) confirmPurge(c *ConfirmPurge) Result {
	v, ok := m.volumes[c.Volume]
	if !ok {
		return Result{} // all have confirmed, this one among them
	}
	if !v.Deleted {
		return refuse(errs.ErrConflict, "volume %s is not deleted", c.Volume)
	}
	m.purged(c.Store, func(v *Volume) bool { return v.ID == c.Volume })
	return Result{}
}

func (m *Machine) createVolume(c *CreateVolume) Result { return m.create(c, nil) }

// create makes a disk, empty or a clone.
func (m *Machine) create(c *CreateVolume, from *lineage.Origin) Result {
	if err := CheckDiskName(c.Name); err != nil {
		return Result{Err: err}
	}
	if err := CheckDiskSize(c.Size); err != nil {
		return Result{Err: err}
	}
	if err := c.QoS.Validate(); err != nil {
		return Result{Err: err}
	}
	if have, ok := m.names[c.Name]; ok {
		v := m.volumes[have]
		if c.RequestID != "" && v.requestID == c.RequestID {
			return Result{Volume: v}
		}
		return refuse(errs.ErrExists, "disk %q", c.Name)
	}
	if len(m.volumes) >= VolumesMax {
		return refuse(errs.ErrNoSpace, "there are %d disks", len(m.volumes))
	}
	v := &Volume{requestID: c.RequestID}
	v.ID, v.Name, v.Size, v.Created = after(m.lastVolume, c.ID), c.Name, c.Size, time.UnixMilli(c.NowMS).UTC()
	v.QoS, v.Origin = c.QoS, from
	m.lastVolume = v.ID
	m.names[v.Name] = v.ID
	return m.put(v)
}

// after is proposed, or the id right after last if proposed is not above it.
func after(last, proposed id.Volume) id.Volume {
	if string(proposed[:]) > string(last[:]) {
		return proposed
	}
	for i := len(last) - 1; i >= 0; i-- {
		if last[i]++; last[i] != 0 {
			break
		}
	}
	return last
}

func (m *Machine) resizeVolume(c *ResizeVolume) Result {
	v, ok := m.volumes[c.Volume]
	if !ok || !v.Live() {
		return refuse(errs.ErrNotFound, "disk %s", c.Volume)
	}
	if err := CheckDiskSize(c.Size); err != nil {
		return Result{Err: err}
	}
	if c.Size < v.Size {
		return refuse(errs.ErrInvalid, "disk %s has %d bytes and cannot shrink to %d", v.Name, v.Size, c.Size)
	}
	v = v.clone()
	v.Size = c.Size
	return m.put(v)
}

func (m *Machine) setQoS(c *SetQoS) Result {
	v, ok := m.volumes[c.Volume]
	if !ok || !v.Live() {
		return refuse(errs.ErrNotFound, "disk %s", c.Volume)
	}
	q := c.Change.Apply(v.QoS)
	if err := q.Validate(); err != nil {
		return Result{Err: err}
	}
	v = v.clone()
	v.QoS = q
	return m.put(v)
}

// deleteVolume unlinks: the name is free, the epoch is raised so that the last owner is
// fenced wherever a store has heard of it, and every memory that may hold something
// must confirm that it forgot it.
func (m *Machine) deleteVolume(c *DeleteVolume) Result {
	v, ok := m.volumes[c.Volume]
	switch {
	case !ok || !v.Live():
		return refuse(errs.ErrNotFound, "disk %s", c.Volume)
	case !c.Forced && c.Epoch != v.Epoch:
		return refuse(errs.ErrConflict, "disk %s was opened meanwhile", v.Name)
	case v.Protected:
		return Result{Err: v.unprotected()}
	case len(v.Snapshots) > 0:
		if n := v.hidden(); n == len(v.Snapshots) {
			return refuse(errs.ErrConflict, "clones or images still need %d snapshots of disk %s, which are deleted already", n, v.Name)
		}
		return refuse(errs.ErrConflict, "disk %s has %d snapshots, which would go with it", v.Name, len(v.Snapshots)-v.hidden())
	}
	delete(m.names, v.Name)
	return m.unlink(v.clone())
}

// unlink begins to purge a volume. What it began with may go now, if it was the last to need it.
func (m *Machine) unlink(v *Volume) Result {
	v.Deleted, v.Owner, v.OpenComplete, v.Flatten = true, id.Holder{}, false, nil
	v.Epoch++
	for _, s := range m.Stores() {
		if !s.Lost {
			v.purging = append(v.purging, s.StoreRef)
		}
	}
	r := m.putDeleted(v)
	m.leave(v.Origin)
	return r
}

func (m *Machine) ensurePlacement(c *EnsurePlacement) Result {
	healthy := m.candidates(c.Healthy)
	add, ok := placement.Form(healthy, m.groups(), c.Seed)
	if !ok {
		return refuse(errs.ErrUnavailable, "placement groups need two healthy stores, there are %d", len(healthy))
	}
	for i, g := range add {
		if !m.addGroup(g, healthy) {
			if i > 0 {
				return Result{Added: i}
			}
			return refuse(errs.ErrNoSpace, "placement groups are used up")
		}
	}
	return Result{Added: len(add)}
}

func (m *Machine) candidates(refs []cluster.StoreRef) []placement.Candidate {
	seen := make(map[id.Store]bool)
	var out []placement.Candidate
	for _, r := range refs {
		if m.Alive(r) && !seen[r.Store] {
			seen[r.Store] = true
			host := m.stores[r.Store].Host
			out = append(out, placement.Candidate{Ref: r, Host: host, Zone: m.zone(host)})
		}
	}
	return out
}

// BestOver is the best scheme that groups over these stores could have.
func (m *Machine) BestOver(refs []cluster.StoreRef) (placement.Scheme, bool) {
	return placement.Best(m.candidates(refs))
}

// Scheme tells the profile of a version and whether it respects the failure domain as
// the stores stand now. A store that is gone counts as a host of its own.
func (m *Machine) Scheme(v cluster.PGVersion) placement.Scheme {
	hosts := make([]id.Host, len(v.Stores))
	for i, r := range v.Stores {
		if s := m.stores[r.Store]; s != nil && s.Incarnation == r.Incarnation {
			hosts[i] = s.Host
		} else {
			hosts[i] = id.Host(r.String()) // one of its own
		}
	}
	return placement.Scheme{Profile: placement.Profile{K: v.K, M: v.M}, Relaxed: placement.Relaxed(hosts, v.M)}
}

func (m *Machine) groups() []placement.Group {
	out := make([]placement.Group, len(m.pgs))
	for i := range m.pgs {
		v := m.pgs[i].Current()
		out[i] = placement.Group{Scheme: m.Scheme(v), Stores: v.Stores}
	}
	return out
}

// addGroup gives g the next free number. When there is none left, a group that lies
// partly outside the healthy stores gets a new version; its old ones stay, for the
// generations coded under them.
func (m *Machine) addGroup(g placement.Group, healthy []placement.Candidate) bool {
	v := cluster.PGVersion{Version: 1, K: g.K, M: g.M, Stores: g.Stores}
	next := id.PG(1)
	if n := len(m.pgs); n > 0 {
		next = m.pgs[n-1].Number + 1
	}
	if next <= id.PGMax {
		m.pgs = append(m.pgs, PG{Number: next, Versions: []cluster.PGVersion{v}})
		return true
	}
	best := -1
	for i := range m.pgs {
		n := len(m.pgs[i].Versions)
		if n < VersionsMax && !within(m.pgs[i].Current().Stores, healthy) && (best < 0 || n < len(m.pgs[best].Versions)) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	// Readers hold the slice of groups: change a copy.
	m.pgs = slices.Clone(m.pgs)
	p := &m.pgs[best]
	v.Version = p.Current().Version + 1
	p.Versions = append(slices.Clone(p.Versions), v)
	return true
}

func within(stores []cluster.StoreRef, healthy []placement.Candidate) bool {
	for _, r := range stores {
		if !slices.ContainsFunc(healthy, func(c placement.Candidate) bool { return c.Ref == r }) {
			return false
		}
	}
	return true
}
