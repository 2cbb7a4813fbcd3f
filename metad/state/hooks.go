package state

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"ashlar.dev/metad/policy"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Hooks of policies: before a snapshot of a disk is taken, an application on some host is frozen, and thawed after it. The host's
// own file says what that means there (blockd/hooks); here is only who is asked, by name.

// Limits of a hook.
const (
	HookNameMax    = 64
	HookTimeoutMin = time.Second
	HookTimeoutMax = 2 * time.Minute
)

// PolicyHook says who freezes what writes to a disk.
type PolicyHook struct {
	Volume  id.Volume
	Host    id.Host
	Hook    string
	Timeout time.Duration // of freezing, and then of being frozen
	Anyway  bool          // the snapshot is taken, and kept, also if nothing was frozen
}

// SetPolicyHook gives a disk of a policy a hook, in the place of the one it has; Off: takes it away.
type SetPolicyHook struct {
	Policy string
	Hook   PolicyHook
	Off    bool
}

const kindSetPolicyHook kind = 204

// CheckHook refuses what cannot be a hook.
func CheckHook(h *PolicyHook) error {
	switch {
	case len(h.Hook) == 0 || len(h.Hook) > HookNameMax || len(h.Host) == 0 || len(h.Host) > id.HostMax:
		return refuse(errs.ErrInvalid, "a hook needs a host and a name of at most %d bytes", HookNameMax).Err
	case h.Timeout < HookTimeoutMin || h.Timeout > HookTimeoutMax || h.Timeout%time.Millisecond != 0:
		return refuse(errs.ErrInvalid, "an application is frozen for %s to %s, not %s", HookTimeoutMin, HookTimeoutMax, h.Timeout).Err
	}
	return nil
}

// HookOf is the hook of a disk; nil: it has none.
func (p *Policy) HookOf(v id.Volume) *PolicyHook {
	if i := slices.IndexFunc(p.Hooks, func(h PolicyHook) bool { return h.Volume == v }); i >= 0 {
		return &p.Hooks[i]
	}
	return nil
}

func (m *Machine) setPolicyHook(c *SetPolicyHook) Result {
	have, ok := m.policies[c.Policy]
	switch {
	case !ok:
		return refuse(errs.ErrNotFound, "policy %q", c.Policy)
	case !slices.Contains(have.Disks, c.Hook.Volume):
		return refuse(errs.ErrConflict, "disk %s is not under policy %q", c.Hook.Volume, c.Policy)
	}
	p := *have
	p.Hooks = slices.DeleteFunc(slices.Clone(p.Hooks), func(h PolicyHook) bool { return h.Volume == c.Hook.Volume })
	if !c.Off {
		if err := CheckHook(&c.Hook); err != nil {
			return Result{Err: err}
		}
		p.Hooks = append(p.Hooks, c.Hook)
	}
	m.policies[c.Policy] = &p
	return Result{}
}

// dropHooks forgets those of disks that are not under the policy any more.
func (p *Policy) dropHooks() {
	p.Hooks = slices.DeleteFunc(slices.Clone(p.Hooks), func(h PolicyHook) bool { return !slices.Contains(p.Disks, h.Volume) })
}

func (*SetPolicyHook) kind() kind { return kindSetPolicyHook }

func (h *PolicyHook) append(b []byte) []byte {
	b = codec.AppendString(codec.AppendString(append(b, h.Volume[:]...), string(h.Host)), h.Hook)
	return appendBool(binary.LittleEndian.AppendUint32(b, uint32(h.Timeout/time.Millisecond)), h.Anyway)
}

func (h *PolicyHook) read(r *codec.Reader) {
	h.Volume, h.Host, h.Hook = readVolumeID(r), id.Host(r.String(id.HostMax)), r.String(HookNameMax)
	h.Timeout, h.Anyway = time.Duration(r.U32())*time.Millisecond, readBool(r)
}

func (c *SetPolicyHook) append(b []byte) []byte {
	return appendBool(c.Hook.append(codec.AppendString(b, c.Policy)), c.Off)
}

func (c *SetPolicyHook) read(r *codec.Reader) {
	c.Policy = r.String(NameMax)
	c.Hook.read(r)
	c.Off = readBool(r)
}

// appendHooks is a part of a snapshot that came with LevelImages: the hooks of each policy that has some, by name.
func (m *Machine) appendHooks(b []byte) []byte {
	var with []*Policy
	for _, p := range m.Policies() {
		if len(p.Hooks) > 0 {
			with = append(with, p)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(with)))
	for _, p := range with {
		b = binary.AppendUvarint(codec.AppendString(b, p.Name), uint64(len(p.Hooks)))
		for i := range p.Hooks {
			b = p.Hooks[i].append(b)
		}
	}
	return b
}

func (m *Machine) readHooks(r *codec.Reader) {
	last := ""
	for n := r.Count(PoliciesMax, 3); n > 0 && r.Err() == nil; n-- {
		name := r.String(NameMax)
		p := m.policies[name]
		if p == nil || cmp.Compare(name, last) <= 0 {
			r.Fail("policies with hooks", 0, 1)
			return
		}
		last = name
		k := r.Count(policy.DisksMax, 23)
		if k == 0 {
			r.Fail("hooks of a policy", 1, 0)
		}
		for ; k > 0 && r.Err() == nil; k-- {
			var h PolicyHook
			h.read(r)
			p.Hooks = append(p.Hooks, h)
		}
	}
}
