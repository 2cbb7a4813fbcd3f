package state

import (
	"encoding/binary"
	"fmt"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
)

// A group is updated one member after the other, and meanwhile some members do not know
// the newest commands: one that is committed would stop them. So what came after level 1
// is refused until all members have said that they know it, and the leader has committed
// that level. It never falls, and a member that knows less is let in no more.

// Levels of what a group understands.
const (
	LevelFirst     uint16 = 1
	LevelEvents    uint16 = 2 // events, limits of disks, change of CA, ensembles with one store of each host
	LevelMoves     uint16 = 3 // all slots of a group may move at once
	LevelCordon    uint16 = 4 // hosts on which nothing new is placed
	LevelSnapshots uint16 = 5 // snapshots of disks
	LevelTime      uint16 = 6 // clones, balancing of stores, disks made from archives
	LevelImages    uint16 = 7 // images, disks kept after their deletion, hooks of policies
	LevelTrash     uint16 = 8 // the trash, clones that are flattened
	LevelArchives  uint16 = 9 // archives that a rebuilding learns of, clones of disks that lie in one, hosts that are removed
	LevelNewest           = LevelArchives
)

// Needs is the level that a command is of. Below it, it must not be committed.
func Needs(c Command) uint16 {
	switch c := c.(type) {
	case *CordonHost:
		return LevelCordon
	case *AddEvents, *SetQoS, *ChangeTrust:
		return LevelEvents
	case *CreateSnapshot, *SnapshotTaken, *DeleteSnapshot, *SnapshotGone:
		return LevelSnapshots
	case *CreateClone, *TellLineage, *RollbackVolume, *VolumeRolledBack, *SetBalancing, *RecodeGroup, *ForgetCodes, *CreateRestored, *RestoreWhole, *SetHydrate, *CreateSnapshots, *EndSnapshots,
		*QueueArchive, *LeaseArchive, *EndArchive,
		*SetPolicy, *DeletePolicy, *ApplyPolicy, *PolicyBegins, *PolicyRan, *PolicyForgets:
		return LevelTime
	case *CreateImage, *SetImage, *DeleteImage, *CreateFromImage, *RetireVolume, *VolumeEmptied, *SetProtection:
		return LevelImages
	case *SetPolicyHook:
		return LevelImages
	case *SetTrash, *PutInTrash, *TakeFromTrash, *EmptyTrash, *PassTrash, *FlattenVolume, *VolumeFlattened:
		return LevelTrash
	case *TellArchives, *RemoveHost:
		return LevelArchives
	case *AddEnsemble:
		if c.Better {
			return LevelEvents
		}
	case *MoveGroup:
		if c.Freely {
			return LevelMoves
		}
	case *CreateVolume:
		if c.QoS != (cluster.QoS{}) {
			return LevelEvents
		}
	}
	return LevelFirst
}

// SetLevel says that all members know a level.
type SetLevel struct{ Level uint16 }

// Level is what all members know.
func (m *Machine) Level() uint16 { return m.level }

func (m *Machine) setLevel(c *SetLevel) Result {
	if c.Level <= m.level {
		return Result{} // another leader was first
	}
	m.level = c.Level
	return Result{}
}

// Ready refuses a command of a level that the group does not have yet: it is not to be
// proposed, for who does not know it cannot even refuse it.
func (m *Machine) Ready(c Command) error {
	if need := Needs(c); m.level < need {
		return fmt.Errorf("not before all metads are of this version (level %d of %d; ashlar metad list shows who answers): %w", m.level, need, errs.ErrUnavailable)
	}
	return nil
}

func (*SetLevel) kind() kind               { return kindSetLevel }
func (c *SetLevel) append(b []byte) []byte { return binary.LittleEndian.AppendUint16(b, c.Level) }
func (c *SetLevel) read(r *codec.Reader)   { c.Level = r.U16() }

// known refuses a command of a level that this program does not have.
func (c *SetLevel) known() error {
	if c.Level == 0 || c.Level > LevelNewest {
		return fmt.Errorf("the group is at level %d, this metad knows %d; update it: %w", c.Level, LevelNewest, errs.ErrInvalid)
	}
	return nil
}

// appendLater is the part of a snapshot that came with level 2.
func (m *Machine) appendLater(b []byte) []byte {
	b = appendTrust(binary.AppendUvarint(binary.LittleEndian.AppendUint16(b, m.level), m.trust.Version), &m.trust)
	b = m.appendEvents(b)
	if m.level >= LevelCordon {
		b = m.appendCordons(b)
	}
	if m.level >= LevelTime {
		b = m.appendPolicies(m.appendHealing(b))
	}
	if m.level >= LevelImages {
		b = m.appendHooks(m.appendImages(b))
	}
	if m.level >= LevelTrash {
		b = m.appendTrash(b)
	}
	if m.level >= LevelArchives {
		b = m.appendRemoved(m.appendToldArchives(b))
	}
	return b
}

func (m *Machine) readLater(r *codec.Reader) error {
	m.level = r.U16()
	if r.Err() == nil && m.level <= LevelFirst {
		r.Fail("level", uint64(LevelFirst)+1, uint64(m.level))
	}
	if r.Err() == nil && m.level > LevelNewest {
		return (&SetLevel{m.level}).known()
	}
	version := r.Uvarint()
	m.trust = readTrust(r)
	m.trust.Version = version
	m.readEvents(r)
	if r.Err() == nil && m.level >= LevelCordon {
		m.readCordons(r)
	}
	if r.Err() == nil && m.level >= LevelTime {
		m.readHealing(r)
		m.readPolicies(r)
	}
	if r.Err() == nil && m.level >= LevelImages {
		m.readImages(r)
		m.readHooks(r)
	}
	if r.Err() == nil && m.level >= LevelTrash {
		m.readTrash(r)
	}
	if r.Err() == nil && m.level >= LevelArchives {
		m.readToldArchives(r)
		m.readRemoved(r)
	}
	return nil
}
