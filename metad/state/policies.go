package state

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"ashlar.dev/metad/policy"
	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Snapshot policies. When a run is due the leader commits that it begins, and the ids of the snapshots that it is going to
// take, so that a leader that comes after it takes the same ones and no others, and none is ever nobody's; then it takes
// them, commits what became of the run, and deletes what has had its time.

// Limits of policies.
const (
	PoliciesMax = 1000
	runsMax     = 16  // that are remembered of a policy
	failuresMax = 20  // that are remembered of a run
	failTextMax = 200 // bytes of each
	// policyNameMax leaves room for the time in the names of snapshots.
	policyNameMax = 64
)

// Policy is one snapshot policy. It is not changed after Apply has put it in place.
type Policy struct {
	ID    id.Raw
	Name  string
	Rules policy.Rules
	Disks []id.Volume // in order
	Since time.Time   // when it was made or changed: what was due before does not count
	Last  time.Time   // the last run that was begun, or left out; zero: none
	Runs  []PolicyRun // the oldest first
	Made  []policy.Made
	Hooks []PolicyHook
}

// PolicyRun is one run. A run that was left out has a reason.
type PolicyRun struct {
	Due      time.Time
	Open     bool // it is under way
	Taken    uint32
	Skipped  string
	Failures []RunFailure
	Failed   uint32 // all of them
}

// RunFailure is a disk of which no snapshot was taken.
type RunFailure struct {
	Volume id.Volume
	Why    string
}

// SetPolicy makes a policy, or gives it other rules.
type SetPolicy struct {
	ID    id.Raw // of a new one
	Name  string
	Rules policy.Rules
	NowMS int64
	New   bool // it must not be there yet; else it must
}

// DeletePolicy forgets a policy. Its snapshots stay.
type DeletePolicy struct{ Name string }

// ApplyPolicy puts disks under a policy, or takes them out.
type ApplyPolicy struct {
	Name    string
	Volumes []id.Volume
	Off     bool
}

// PolicyBegins begins a run: its snapshots are the policy's from now on. With a reason it is left out.
type PolicyBegins struct {
	Policy  id.Raw
	Due     time.Time
	Made    []policy.Made
	Skipped string
}

// PolicyRan says what became of the run that is under way. Due names it. Of those that failed nothing is there.
type PolicyRan struct {
	Policy id.Raw
	Run    PolicyRun
}

// PolicyForgets says that snapshots are no longer the policy's: they are being deleted, or gone.
type PolicyForgets struct {
	Policy    id.Raw
	Snapshots []id.Snapshot
}

// The kinds of policies, apart from the others so that all lists may grow.
const (
	kindSetPolicy kind = iota + 180
	kindDeletePolicy
	kindApplyPolicy
	kindPolicyRan
	kindPolicyForgets
	kindPolicyBegins
)

func emptyPolicy(k kind) Command {
	switch k {
	case kindSetPolicy:
		return &SetPolicy{}
	case kindDeletePolicy:
		return &DeletePolicy{}
	case kindApplyPolicy:
		return &ApplyPolicy{}
	case kindPolicyRan:
		return &PolicyRan{}
	case kindPolicyForgets:
		return &PolicyForgets{}
	case kindPolicyBegins:
		return &PolicyBegins{}
	case kindSetPolicyHook:
		return &SetPolicyHook{}
	}
	return nil
}

func (m *Machine) applyPolicies(c Command) (Result, bool) {
	switch c := c.(type) {
	case *SetPolicy:
		return m.setPolicy(c), true
	case *DeletePolicy:
		if _, ok := m.policies[c.Name]; !ok {
			return refuse(errs.ErrNotFound, "policy %q", c.Name), true
		}
		delete(m.policies, c.Name)
		return Result{}, true
	case *ApplyPolicy:
		return m.applyPolicy(c), true
	case *PolicyRan:
		return m.policyRan(c), true
	case *PolicyForgets:
		return m.policyForgets(c), true
	case *PolicyBegins:
		return m.policyBegins(c), true
	case *SetPolicyHook:
		return m.setPolicyHook(c), true
	}
	return Result{}, false
}

// Policies are all policies, in order of their names.
func (m *Machine) Policies() []*Policy {
	out := make([]*Policy, 0, len(m.policies))
	for _, name := range slices.Sorted(maps.Keys(m.policies)) {
		out = append(out, m.policies[name])
	}
	return out
}

// Policy gives the policy of a name.
func (m *Machine) Policy(name string) (*Policy, bool) {
	p, ok := m.policies[name]
	return p, ok
}

// policyOf gives a copy of the policy with an id, to be changed and put in place; nil: it is gone.
func (m *Machine) policyOf(x id.Raw) *Policy {
	for _, p := range m.policies {
		if p.ID == x {
			c := *p
			return &c
		}
	}
	return nil
}

// CheckPolicyName refuses what cannot be the name of a policy: the names of its snapshots begin with it.
func CheckPolicyName(name string) error {
	if len(name) > policyNameMax {
		return refuse(errs.ErrInvalid, "the name of a policy has %d bytes, at most %d", len(name), policyNameMax).Err
	}
	return CheckDiskName(name)
}

func (m *Machine) setPolicy(c *SetPolicy) Result {
	if err := CheckPolicyName(c.Name); err != nil {
		return Result{Err: err}
	}
	if err := c.Rules.Check(); err != nil {
		return Result{Err: err}
	}
	p := Policy{ID: c.ID, Name: c.Name}
	switch have, ok := m.policies[c.Name]; {
	case ok && c.New && have.ID == c.ID: // the answer was lost
		return Result{}
	case ok && c.New:
		return refuse(errs.ErrExists, "policy %q", c.Name)
	case !ok && !c.New:
		return refuse(errs.ErrNotFound, "policy %q", c.Name)
	case ok:
		p = *have
	case len(m.policies) >= PoliciesMax:
		return refuse(errs.ErrNoSpace, "there are %d policies, as many as there may be", PoliciesMax)
	case c.ID == id.Raw{}:
		return refuse(errs.ErrInvalid, "a policy without an id")
	}
	p.Rules, p.Since = c.Rules, time.UnixMilli(c.NowMS).UTC()
	m.policies[c.Name] = &p
	return Result{}
}

func (m *Machine) applyPolicy(c *ApplyPolicy) Result {
	have, ok := m.policies[c.Name]
	if !ok {
		return refuse(errs.ErrNotFound, "policy %q", c.Name)
	}
	p := *have
	p.Disks = slices.Clone(p.Disks)
	for _, v := range c.Volumes {
		at := slices.Index(p.Disks, v)
		x, known := m.volumes[v]
		switch {
		case c.Off && at >= 0:
			p.Disks = slices.Delete(p.Disks, at, at+1)
		case c.Off || at >= 0:
		case !known || !x.Live():
			return refuse(errs.ErrNotFound, "disk %s", v)
		case len(p.Disks) >= policy.DisksMax:
			return refuse(errs.ErrNoSpace, "policy %q has %d disks, as many as it may", p.Name, len(p.Disks))
		default:
			p.Disks = append(p.Disks, v)
		}
	}
	p.dropHooks()
	m.policies[c.Name] = &p
	return Result{}
}

func (m *Machine) policyBegins(c *PolicyBegins) Result {
	p := m.policyOf(c.Policy)
	switch {
	case p == nil:
		return refuse(errs.ErrNotFound, "policy %x", c.Policy)
	case !c.Due.After(p.Last):
		return refuse(errs.ErrConflict, "the run of %s of policy %q has begun", c.Due, p.Name) // another leader was first
	}
	p.Last = c.Due
	p.Runs = append(slices.Clone(p.Runs), PolicyRun{Due: c.Due, Open: c.Skipped == "", Skipped: c.Skipped})
	p.Runs = p.Runs[max(0, len(p.Runs)-runsMax):]
	p.Made = append(slices.Clone(p.Made), c.Made...)
	m.policies[p.Name] = p
	return Result{}
}

func (m *Machine) policyRan(c *PolicyRan) Result {
	p := m.policyOf(c.Policy)
	if p == nil {
		return refuse(errs.ErrNotFound, "policy %x", c.Policy)
	}
	p.Runs = slices.Clone(p.Runs)
	at := slices.IndexFunc(p.Runs, func(x PolicyRun) bool { return x.Open && x.Due.Equal(c.Run.Due) })
	if at < 0 {
		return Result{} // another leader was first
	}
	run := c.Run
	run.Open = false
	p.Runs[at] = run
	p.Disks = slices.DeleteFunc(slices.Clone(p.Disks), func(v id.Volume) bool {
		x, ok := m.volumes[v]
		return !ok || !x.Live()
	})
	p.dropHooks()
	p.Made = slices.DeleteFunc(slices.Clone(p.Made), func(x policy.Made) bool { // snapshots that outlive their disk have their time, too
		v, ok := m.volumes[x.Volume]
		return !ok || v.Deleted
	})
	m.policies[p.Name] = p
	return Result{}
}

func (m *Machine) policyForgets(c *PolicyForgets) Result {
	p := m.policyOf(c.Policy)
	if p == nil {
		return refuse(errs.ErrNotFound, "policy %x", c.Policy)
	}
	p.Made = slices.DeleteFunc(slices.Clone(p.Made), func(x policy.Made) bool { return slices.Contains(c.Snapshots, x.Snapshot) })
	m.policies[p.Name] = p
	return Result{}
}

func (*SetPolicy) kind() kind     { return kindSetPolicy }
func (*DeletePolicy) kind() kind  { return kindDeletePolicy }
func (*ApplyPolicy) kind() kind   { return kindApplyPolicy }
func (*PolicyRan) kind() kind     { return kindPolicyRan }
func (*PolicyForgets) kind() kind { return kindPolicyForgets }
func (*PolicyBegins) kind() kind  { return kindPolicyBegins }

func appendTime(b []byte, t time.Time) []byte {
	ms := int64(0)
	if !t.IsZero() {
		ms = t.UnixMilli()
	}
	return binary.LittleEndian.AppendUint64(b, uint64(ms))
}

// readMoment is the other side of appendTime.
func readMoment(r *codec.Reader) time.Time {
	if ms := int64(r.U64()); ms != 0 {
		return time.UnixMilli(ms).UTC()
	}
	return time.Time{}
}

func appendRules(b []byte, x *policy.Rules) []byte {
	b = binary.AppendUvarint(b, uint64(len(x.At)))
	for _, m := range x.At {
		b = binary.LittleEndian.AppendUint16(b, m)
	}
	b = binary.LittleEndian.AppendUint64(append(b, byte(x.Days)), uint64(x.Retain/time.Second))
	return binary.LittleEndian.AppendUint32(b, uint32(x.Keep))
}

func readRules(r *codec.Reader) (x policy.Rules) {
	for n := r.Count(policy.TimesMax, 2); n > 0; n-- {
		x.At = append(x.At, r.U16())
	}
	x.Days = policy.Days(r.U8())
	x.Retain, x.Keep = time.Duration(min(r.U64(), uint64(policy.RetainMax/time.Second)))*time.Second, int(r.U32())
	return x
}

func appendMade(b []byte, all []policy.Made) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, x := range all {
		b = appendTime(appendSnapshotID(b, x.Volume, x.Snapshot), x.Due)
	}
	return b
}

// madeMax bounds the snapshots of one policy.
const madeMax = policy.DisksMax * cluster.SnapshotsMax

func readMade(r *codec.Reader) (all []policy.Made) {
	for n := r.Count(madeMax, 40); n > 0; n-- {
		v, s := readSnapshotID(r)
		all = append(all, policy.Made{Volume: v, Snapshot: s, Due: readMoment(r)})
	}
	return all
}

func appendRun(b []byte, x *PolicyRun) []byte {
	b = binary.LittleEndian.AppendUint32(appendBool(appendTime(b, x.Due), x.Open), x.Taken)
	b = binary.LittleEndian.AppendUint32(codec.AppendString(b, x.Skipped[:min(len(x.Skipped), failTextMax)]), x.Failed)
	some := x.Failures[:min(len(x.Failures), failuresMax)]
	b = binary.AppendUvarint(b, uint64(len(some)))
	for _, f := range some {
		b = codec.AppendString(append(b, f.Volume[:]...), f.Why[:min(len(f.Why), failTextMax)])
	}
	return b
}

func readRun(r *codec.Reader) (x PolicyRun) {
	x.Due, x.Open, x.Taken, x.Skipped, x.Failed = readMoment(r), readBool(r), r.U32(), r.String(failTextMax), r.U32()
	for n := r.Count(failuresMax, 17); n > 0; n-- {
		var f RunFailure
		r.Fill(f.Volume[:])
		f.Why = r.String(failTextMax)
		x.Failures = append(x.Failures, f)
	}
	return x
}

func (c *SetPolicy) append(b []byte) []byte {
	b = appendRules(codec.AppendString(append(b, c.ID[:]...), c.Name), &c.Rules)
	return appendBool(binary.LittleEndian.AppendUint64(b, uint64(c.NowMS)), c.New)
}

func (c *SetPolicy) read(r *codec.Reader) {
	r.Fill(c.ID[:])
	c.Name, c.Rules, c.NowMS, c.New = r.String(NameMax), readRules(r), int64(r.U64()), readBool(r)
}

func (c *DeletePolicy) append(b []byte) []byte { return codec.AppendString(b, c.Name) }
func (c *DeletePolicy) read(r *codec.Reader)   { c.Name = r.String(NameMax) }

func appendVolumes(b []byte, all []id.Volume) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, v := range all {
		b = append(b, v[:]...)
	}
	return b
}

func readVolumes(r *codec.Reader, most int) (all []id.Volume) {
	for n := r.Count(most, 16); n > 0; n-- {
		var v id.Volume
		r.Fill(v[:])
		all = append(all, v)
	}
	return all
}

func (c *ApplyPolicy) append(b []byte) []byte {
	return appendBool(appendVolumes(codec.AppendString(b, c.Name), c.Volumes), c.Off)
}

func (c *ApplyPolicy) read(r *codec.Reader) {
	c.Name, c.Volumes, c.Off = r.String(NameMax), readVolumes(r, policy.DisksMax), readBool(r)
}

func (c *PolicyBegins) append(b []byte) []byte {
	b = appendMade(appendTime(append(b, c.Policy[:]...), c.Due), c.Made)
	return codec.AppendString(b, c.Skipped[:min(len(c.Skipped), failTextMax)])
}

func (c *PolicyBegins) read(r *codec.Reader) {
	r.Fill(c.Policy[:])
	c.Due, c.Made, c.Skipped = readMoment(r), readMade(r), r.String(failTextMax)
}

func (c *PolicyRan) append(b []byte) []byte { return appendRun(append(b, c.Policy[:]...), &c.Run) }

func (c *PolicyRan) read(r *codec.Reader) {
	r.Fill(c.Policy[:])
	c.Run = readRun(r)
}

func (c *PolicyForgets) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, c.Policy[:]...), uint64(len(c.Snapshots)))
	for _, s := range c.Snapshots {
		b = append(b, s[:]...)
	}
	return b
}

func (c *PolicyForgets) read(r *codec.Reader) {
	r.Fill(c.Policy[:])
	for n := r.Count(madeMax, 16); n > 0; n-- {
		var s id.Snapshot
		r.Fill(s[:])
		c.Snapshots = append(c.Snapshots, s)
	}
}

// appendPolicies is a part of a snapshot that came with LevelTime.
func (m *Machine) appendPolicies(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(m.policies)))
	for _, p := range m.Policies() {
		b = appendRules(codec.AppendString(append(b, p.ID[:]...), p.Name), &p.Rules)
		b = appendTime(appendTime(appendVolumes(b, p.Disks), p.Since), p.Last)
		b = binary.AppendUvarint(b, uint64(len(p.Runs)))
		for i := range p.Runs {
			b = appendRun(b, &p.Runs[i])
		}
		b = appendMade(b, p.Made)
	}
	return b
}

func (m *Machine) readPolicies(r *codec.Reader) {
	for n := r.Count(PoliciesMax, 40); n > 0 && r.Err() == nil; n-- {
		p := &Policy{}
		r.Fill(p.ID[:])
		p.Name, p.Rules, p.Disks = r.String(NameMax), readRules(r), readVolumes(r, policy.DisksMax)
		p.Since, p.Last = readMoment(r), readMoment(r)
		for k := r.Count(runsMax, 17); k > 0 && r.Err() == nil; k-- {
			p.Runs = append(p.Runs, readRun(r))
		}
		p.Made = readMade(r)
		m.policies[p.Name] = p
	}
}
