package state

import (
	"encoding/binary"
	"fmt"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
)

// Command is one entry of the log. FORMAT.md has the bytes.
type Command interface {
	kind() kind
	append([]byte) []byte
	read(*codec.Reader)
}

type kind uint8

// The kinds are in the log for ever: never renumber.
const (
	kindInit kind = iota + 1
	kindRegisterHost
	kindCreateVolume
	kindResizeVolume
	kindDeleteVolume
	kindAcquire
	kindRelease
	kindAddEnsemble
	kindCloseEnsemble
	kindRemoveEnsembles
	kindReplaceList
	kindAllocRange
	kindForgetSpans
	kindCommitCheckpoint
	kindEnsurePlacement
	kindConfirmPurge
	kindLoseStore
	kindAcceptLoss
	kindMarkStore
	kindMoveGroup
	kindForgetVersions
	kindRemoveStore
	kindSetQoS
	kindAddBetter
	kindMoveFreely
)

// The kinds of roster.go and rebuild.go, apart from the others so that both lists may grow.
const (
	kindSetMember kind = iota + 64
	kindDropMember
	kindAddToken
	kindRevokeToken
	kindUseToken
	kindTellInventory
	kindFinishRebuild
	kindSetLevel
	kindAddEvents
	kindChangeTrust
	kindCordonHost
)

// commandVersion is the first byte of an encoded command.
const commandVersion = 1

func empty(k kind) Command {
	switch k {
	case kindInit:
		return &Init{}
	case kindRegisterHost:
		return &RegisterHost{}
	case kindCreateVolume:
		return &CreateVolume{}
	case kindResizeVolume:
		return &ResizeVolume{}
	case kindDeleteVolume:
		return &DeleteVolume{}
	case kindAcquire:
		return &Acquire{}
	case kindRelease:
		return &Release{}
	case kindAddEnsemble:
		return &AddEnsemble{}
	case kindAddBetter:
		return &AddEnsemble{Better: true}
	case kindCloseEnsemble:
		return &CloseEnsemble{}
	case kindRemoveEnsembles:
		return &RemoveEnsembles{}
	case kindReplaceList:
		return &ReplaceList{}
	case kindAllocRange:
		return &AllocRange{}
	case kindForgetSpans:
		return &ForgetSpans{}
	case kindCommitCheckpoint:
		return &CommitCheckpoint{}
	case kindEnsurePlacement:
		return &EnsurePlacement{}
	case kindConfirmPurge:
		return &ConfirmPurge{}
	case kindLoseStore:
		return &LoseStore{}
	case kindAcceptLoss:
		return &AcceptLoss{}
	case kindMarkStore:
		return &MarkStore{}
	case kindMoveGroup:
		return &MoveGroup{}
	case kindMoveFreely:
		return &MoveGroup{Freely: true}
	case kindForgetVersions:
		return &ForgetVersions{}
	case kindRemoveStore:
		return &RemoveStore{}
	case kindSetQoS:
		return &SetQoS{}
	}
	for _, empty := range []func(kind) Command{emptySnapshot, emptySnapGroup, emptyPolicy, emptyLineage, emptyImage, emptyArchive, emptyTrash, emptyFlatten, emptyTellArchives, emptyRemoveHost} {
		if c := empty(k); c != nil {
			return c
		}
	}
	if c := emptyHealing(k); c != nil {
		return c
	}
	if c := emptyRestored(k); c != nil {
		return c
	}
	if c := emptyKept(k); c != nil {
		return c
	}
	return emptyRoster(k)
}

// Encode gives the bytes of c for the log.
func Encode(c Command) []byte { return c.append([]byte{commandVersion, byte(c.kind())}) }

// Decode reads what Encode wrote. An error is of class ErrCorrupt, or ErrInvalid for a
// version or kind that this program does not know.
func Decode(b []byte) (Command, error) {
	r := codec.NewReader("command", b)
	version, k := r.U8(), kind(r.U8())
	if r.Err() != nil {
		return nil, r.Err()
	}
	c := empty(k)
	if version != commandVersion || c == nil {
		return nil, fmt.Errorf("command version %d kind %d is not known: %w", version, k, errs.ErrInvalid)
	}
	c.read(&r)
	r.End()
	if l, ok := c.(*SetLevel); ok && r.Err() == nil {
		return c, l.known()
	}
	return c, r.Err()
}

// At is what every change of a journal list compares.
type At struct {
	Volume  id.Volume
	Epoch   id.Epoch
	Version uint64
}

// The commands. What a leader observed or drew comes as a field.
type (
	// Init names a new cluster. Only the first counts; a later one is ErrExists.
	Init struct {
		ClusterID [16]byte
		Settings  cluster.Settings
	}

	// RegisterHost makes a host, its life and its stores known.
	RegisterHost struct {
		Holder      id.Holder
		DataAddress string
		Zone        string
		Exports     bool
		NBDUnixPath string
		NBDTCP      string
		NBDTLS      bool
		Stores      []RegisterStore
	}
	// RegisterStore is one store of a RegisterHost.
	RegisterStore struct {
		cluster.StoreRef
		Capacity uint64
		// MayMove: the leader heard nothing from the host it was on.
		MayMove bool
	}

	// CreateVolume makes a disk. ID is a proposal; the one given is always above all before.
	CreateVolume struct {
		ID        id.Volume
		Name      string
		Size      uint64
		RequestID string
		NowMS     int64
		QoS       cluster.QoS
	}
	// ResizeVolume grows a disk.
	ResizeVolume struct {
		Volume id.Volume
		Size   uint64
	}
	// SetQoS changes how fast a disk may be.
	SetQoS struct {
		Volume id.Volume
		Change cluster.QoSChange
	}
	// DeleteVolume unlinks a disk, raises its epoch and waits for the stores to purge it.
	// Unless Forced, only at Epoch: the one at which the leader judged that nobody is attached.
	DeleteVolume struct {
		Volume id.Volume
		Epoch  id.Epoch
		Forced bool
	}

	// Acquire makes By the owner under a new epoch, if the rules allow.
	Acquire struct {
		Volume id.Volume
		By     id.Holder
		// Gone is the owner that the leader takes for gone: its host is silent, or no longer speaks of the volume; zero: none.
		Gone id.Holder
	}
	// Release gives the volume up.
	Release struct {
		Volume id.Volume
		Epoch  id.Epoch
		By     id.Holder
	}

	// AddEnsemble appends a successor, of stores chosen among Candidates.
	AddEnsemble struct {
		At             At
		Candidates     []EnsembleCandidate
		Want, Fallback uint8
		Seed           uint64
		Better         bool // only if it is on more hosts than the newest, or on as many with more stores
	}
	// EnsembleCandidate is a store that the leader finds usable.
	EnsembleCandidate struct {
		cluster.StoreRef
		Load uint64 // the leader's view, beside the ensembles the store is in
	}
	// CloseEnsemble sets the bounds of what counts in an ensemble that has a successor.
	CloseEnsemble struct {
		At               At
		Ensemble         id.Ensemble
		From, To         id.LSN
		MetaFrom, MetaTo id.LSN
		Holders          []cluster.StoreRef
	}
	// RemoveEnsembles drops closed ensembles that nothing needs any more.
	RemoveEnsembles struct {
		At        At
		Ensembles []id.Ensemble
		Released  id.LSN
	}
	// ReplaceList makes one ensemble the whole list: recovery is complete.
	ReplaceList struct {
		At   At
		Keep id.Ensemble
	}

	// AllocRange hands out segment sequences.
	AllocRange struct {
		Volume id.Volume
		Epoch  id.Epoch
	}
	// ForgetSpans drops the spans of epochs below Below.
	ForgetSpans struct {
		Volume id.Volume
		Epoch  id.Epoch
		Below  id.Epoch
	}
	// CommitCheckpoint follows a checkpoint that stands in the meta stream.
	CommitCheckpoint struct {
		Volume     id.Volume
		Epoch      id.Epoch
		Checkpoint cluster.Checkpoint
	}

	// EnsurePlacement forms groups over the healthy stores, if there are not enough.
	EnsurePlacement struct {
		Healthy []cluster.StoreRef
		Seed    uint64
	}
	// ConfirmPurge takes a store off those that may hold something of a deleted volume.
	ConfirmPurge struct {
		Store  cluster.StoreRef
		Volume id.Volume
	}
	// LoseStore says that a memory never comes back.
	LoseStore struct{ Store cluster.StoreRef }
	// AcceptLoss lets a volume open although an ensemble of it lost its records.
	AcceptLoss struct {
		Volume   id.Volume
		Ensemble id.Ensemble
		By       string
		NowMS    int64
	}

	// MarkStore says whether a store is to be emptied, and whether it was away for too long.
	MarkStore struct {
		Store        cluster.StoreRef
		Leaving, Out bool
	}
	// MoveGroup gives slots of a group to other stores: a new version after At.
	MoveGroup struct {
		PG     id.PG
		At     uint32
		Stores []cluster.StoreRef
		Freely bool // no slot has to stay with whom has had it in every kept version
	}
	// ForgetVersions drops the versions of a group before At, the current one.
	ForgetVersions struct {
		PG id.PG
		At uint32
	}
	// RemoveStore forgets a store that is lost or emptied, and that nothing needs.
	RemoveStore struct{ Store cluster.StoreRef }
)

func (*Init) kind() kind         { return kindInit }
func (*RegisterHost) kind() kind { return kindRegisterHost }
func (*CreateVolume) kind() kind { return kindCreateVolume }
func (*ResizeVolume) kind() kind { return kindResizeVolume }
func (*DeleteVolume) kind() kind { return kindDeleteVolume }
func (*Acquire) kind() kind      { return kindAcquire }
func (*Release) kind() kind      { return kindRelease }
func (c *AddEnsemble) kind() kind {
	if c.Better {
		return kindAddBetter
	}
	return kindAddEnsemble
}
func (*CloseEnsemble) kind() kind    { return kindCloseEnsemble }
func (*RemoveEnsembles) kind() kind  { return kindRemoveEnsembles }
func (*ReplaceList) kind() kind      { return kindReplaceList }
func (*AllocRange) kind() kind       { return kindAllocRange }
func (*ForgetSpans) kind() kind      { return kindForgetSpans }
func (*CommitCheckpoint) kind() kind { return kindCommitCheckpoint }
func (*EnsurePlacement) kind() kind  { return kindEnsurePlacement }
func (*ConfirmPurge) kind() kind     { return kindConfirmPurge }
func (*LoseStore) kind() kind        { return kindLoseStore }
func (*AcceptLoss) kind() kind       { return kindAcceptLoss }
func (*MarkStore) kind() kind        { return kindMarkStore }
func (c *MoveGroup) kind() kind {
	if c.Freely {
		return kindMoveFreely
	}
	return kindMoveGroup
}
func (*ForgetVersions) kind() kind { return kindForgetVersions }
func (*RemoveStore) kind() kind    { return kindRemoveStore }
func (*SetQoS) kind() kind         { return kindSetQoS }

func (c *Init) append(b []byte) []byte {
	return appendSettings(append(b, c.ClusterID[:]...), c.Settings)
}

func (c *Init) read(r *codec.Reader) {
	r.Fill(c.ClusterID[:])
	c.Settings = readSettings(r)
}

func appendSettings(b []byte, s cluster.Settings) []byte {
	for _, v := range []uint64{uint64(s.LeaseTerm.Milliseconds()), uint64(s.HeartbeatInterval.Milliseconds()),
		uint64(s.HeartbeatTimeout.Milliseconds()), uint64(s.RangeCount)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	return b
}

func readSettings(r *codec.Reader) cluster.Settings {
	return cluster.Settings{LeaseTerm: readMS(r), HeartbeatInterval: readMS(r), HeartbeatTimeout: readMS(r), RangeCount: r.U32()}
}

func readMS(r *codec.Reader) time.Duration { return time.Duration(r.U32()) * time.Millisecond }

func (c *RegisterHost) append(b []byte) []byte {
	b = appendHost(b, c.host())
	b = binary.AppendUvarint(b, uint64(len(c.Stores)))
	for _, s := range c.Stores {
		b = appendBool(binary.LittleEndian.AppendUint64(appendRef(b, s.StoreRef), s.Capacity), s.MayMove)
	}
	return b
}

func (c *RegisterHost) host() Host {
	return Host{Host: c.Holder.Host, HolderNumber: c.Holder.Number, DataAddress: c.DataAddress, Zone: c.Zone,
		Exports: c.Exports, NBDUnixPath: c.NBDUnixPath, NBDTCP: c.NBDTCP, NBDTLS: c.NBDTLS}
}

func (c *RegisterHost) read(r *codec.Reader) {
	h := readHost(r)
	*c = RegisterHost{Holder: id.Holder{Host: h.Host, Number: h.HolderNumber}, DataAddress: h.DataAddress, Zone: h.Zone,
		Exports: h.Exports, NBDUnixPath: h.NBDUnixPath, NBDTCP: h.NBDTCP, NBDTLS: h.NBDTLS}
	for n := r.Count(StoresPerHostMax, refSize+9); n > 0; n-- {
		c.Stores = append(c.Stores, RegisterStore{StoreRef: readRef(r), Capacity: r.U64(), MayMove: readBool(r)})
	}
}

func (c *CreateVolume) append(b []byte) []byte {
	b = codec.AppendString(append(b, c.ID[:]...), c.Name)
	b = codec.AppendString(binary.LittleEndian.AppendUint64(b, c.Size), c.RequestID)
	if b = binary.LittleEndian.AppendUint64(b, uint64(c.NowMS)); c.QoS != (cluster.QoS{}) {
		b = appendQoS(b, c.QoS)
	}
	return b
}

func (c *CreateVolume) read(r *codec.Reader) {
	c.ID = readVolumeID(r)
	c.Name, c.Size, c.RequestID, c.NowMS = r.String(NameMax), r.U64(), r.String(NameMax), int64(r.U64())
	if r.Left() > 0 { // without limits it ends here
		c.QoS = readQoS(r)
	}
}

func (c *SetQoS) fields() []**uint64 {
	return []**uint64{&c.Change.IOPS, &c.Change.IOPSBurst, &c.Change.Bytes, &c.Change.BytesBurst}
}

func (c *SetQoS) append(b []byte) []byte {
	b = append(b, c.Volume[:]...)
	for _, x := range c.fields() {
		if b = appendBool(b, *x != nil); *x != nil {
			b = binary.AppendUvarint(b, **x)
		}
	}
	return b
}

func (c *SetQoS) read(r *codec.Reader) {
	c.Volume = readVolumeID(r)
	for _, x := range c.fields() {
		if readBool(r) {
			v := r.Uvarint()
			*x = &v
		}
	}
}

func (c *ResizeVolume) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), c.Size)
}
func (c *ResizeVolume) read(r *codec.Reader) { c.Volume, c.Size = readVolumeID(r), r.U64() }

func (c *DeleteVolume) append(b []byte) []byte {
	return appendBool(binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch)), c.Forced)
}

func (c *DeleteVolume) read(r *codec.Reader) {
	c.Volume, c.Epoch, c.Forced = readVolumeID(r), id.Epoch(r.U64()), readBool(r)
}

func (c *Acquire) append(b []byte) []byte {
	return appendHolder(appendHolder(append(b, c.Volume[:]...), c.By), c.Gone)
}

func (c *Acquire) read(r *codec.Reader) {
	c.Volume, c.By, c.Gone = readVolumeID(r), readHolder(r), readHolder(r)
}

func (c *Release) append(b []byte) []byte {
	return appendHolder(binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch)), c.By)
}

func (c *Release) read(r *codec.Reader) {
	c.Volume, c.Epoch, c.By = readVolumeID(r), id.Epoch(r.U64()), readHolder(r)
}

func (c *AddEnsemble) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(append(appendAt(b, c.At), c.Want, c.Fallback), c.Seed)
	b = binary.AppendUvarint(b, uint64(len(c.Candidates)))
	for _, x := range c.Candidates {
		b = binary.LittleEndian.AppendUint64(appendRef(b, x.StoreRef), x.Load)
	}
	return b
}

func (c *AddEnsemble) read(r *codec.Reader) {
	c.At, c.Want, c.Fallback, c.Seed = readAt(r), r.U8(), r.U8(), r.U64()
	for n := r.Count(StoresMax, refSize+8); n > 0; n-- {
		c.Candidates = append(c.Candidates, EnsembleCandidate{StoreRef: readRef(r), Load: r.U64()})
	}
}

func (c *CloseEnsemble) append(b []byte) []byte {
	b = appendEnsembleID(appendAt(b, c.At), c.Ensemble)
	for _, v := range []id.LSN{c.From, c.To, c.MetaFrom, c.MetaTo} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return appendRefs(b, c.Holders)
}

func (c *CloseEnsemble) read(r *codec.Reader) {
	c.At, c.Ensemble = readAt(r), readEnsembleID(r)
	c.From, c.To, c.MetaFrom, c.MetaTo = readLSN(r), readLSN(r), readLSN(r), readLSN(r)
	c.Holders = readRefs(r, EnsembleWidthMax)
}

func (c *RemoveEnsembles) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(appendAt(b, c.At), uint64(c.Released))
	b = binary.AppendUvarint(b, uint64(len(c.Ensembles)))
	for _, e := range c.Ensembles {
		b = appendEnsembleID(b, e)
	}
	return b
}

func (c *RemoveEnsembles) read(r *codec.Reader) {
	c.At, c.Released = readAt(r), readLSN(r)
	for n := r.Count(EnsemblesMax, 12); n > 0; n-- {
		c.Ensembles = append(c.Ensembles, readEnsembleID(r))
	}
}

func (c *ReplaceList) append(b []byte) []byte { return appendEnsembleID(appendAt(b, c.At), c.Keep) }
func (c *ReplaceList) read(r *codec.Reader)   { c.At, c.Keep = readAt(r), readEnsembleID(r) }

func (c *AllocRange) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch))
}
func (c *AllocRange) read(r *codec.Reader) { c.Volume, c.Epoch = readVolumeID(r), id.Epoch(r.U64()) }

func (c *ForgetSpans) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch))
	return binary.LittleEndian.AppendUint64(b, uint64(c.Below))
}

func (c *ForgetSpans) read(r *codec.Reader) {
	c.Volume, c.Epoch, c.Below = readVolumeID(r), id.Epoch(r.U64()), id.Epoch(r.U64())
}

func (c *CommitCheckpoint) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(append(b, c.Volume[:]...), uint64(c.Epoch))
	return appendCheckpoint(b, c.Checkpoint)
}

func (c *CommitCheckpoint) read(r *codec.Reader) {
	c.Volume, c.Epoch, c.Checkpoint = readVolumeID(r), id.Epoch(r.U64()), readCheckpoint(r)
}

func (c *EnsurePlacement) append(b []byte) []byte {
	return appendRefs(binary.LittleEndian.AppendUint64(b, c.Seed), c.Healthy)
}

func (c *EnsurePlacement) read(r *codec.Reader) {
	c.Seed, c.Healthy = r.U64(), readRefs(r, StoresMax)
}

func (c *ConfirmPurge) append(b []byte) []byte { return append(appendRef(b, c.Store), c.Volume[:]...) }
func (c *ConfirmPurge) read(r *codec.Reader)   { c.Store, c.Volume = readRef(r), readVolumeID(r) }

func (c *LoseStore) append(b []byte) []byte { return appendRef(b, c.Store) }
func (c *LoseStore) read(r *codec.Reader)   { c.Store = readRef(r) }

func (c *AcceptLoss) append(b []byte) []byte {
	b = codec.AppendString(appendEnsembleID(append(b, c.Volume[:]...), c.Ensemble), c.By)
	return binary.LittleEndian.AppendUint64(b, uint64(c.NowMS))
}

func (c *AcceptLoss) read(r *codec.Reader) {
	c.Volume, c.Ensemble, c.By, c.NowMS = readVolumeID(r), readEnsembleID(r), r.String(NameMax), int64(r.U64())
}

func (c *MarkStore) append(b []byte) []byte {
	return appendBool(appendBool(appendRef(b, c.Store), c.Leaving), c.Out)
}
func (c *MarkStore) read(r *codec.Reader) {
	c.Store, c.Leaving, c.Out = readRef(r), readBool(r), readBool(r)
}

func (c *MoveGroup) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(b, uint16(c.PG)), c.At)
	return appendRefs(b, c.Stores)
}
func (c *MoveGroup) read(r *codec.Reader) {
	c.PG, c.At, c.Stores = id.PG(r.U16()), r.U32(), readRefs(r, groupWidthMax)
}

func (c *ForgetVersions) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(b, uint16(c.PG)), c.At)
}
func (c *ForgetVersions) read(r *codec.Reader) { c.PG, c.At = id.PG(r.U16()), r.U32() }

func (c *RemoveStore) append(b []byte) []byte { return appendRef(b, c.Store) }
func (c *RemoveStore) read(r *codec.Reader)   { c.Store = readRef(r) }
