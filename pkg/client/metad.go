package client

import (
	"context"
	"time"

	"ashlar.dev/pkg/cluster"
	"ashlar.dev/pkg/id"
)

// Metad is metad as a blockd sees it. Safe for concurrent use.
//
// Every call finds the leader by itself and retries, within ctx, what may be sent
// twice without harm. Errors are classes of pkg/errs. ErrStaleEpoch: the volume has a
// newer epoch, or the host a newer life. ErrConflict: the list has another version;
// Current(err) gives the record in force for both. ErrUnavailable, ErrTimeout: metad
// was not reached or did not answer in time; of AddEnsemble, CloseEnsemble,
// RemoveEnsembles and ReplaceList the outcome is then unknown, so read the volume
// again before asking again.
type Metad interface {
	// Register makes the host and its stores known. Idempotent; call it at every start,
	// and again when Heartbeat answers ErrNotFound.
	Register(context.Context, Registration) (Registered, error)
	// Heartbeat is sent once, not retried beyond one change of leader.
	Heartbeat(context.Context, Heartbeat) (HeartbeatReply, error)
	// Topology is the last one received; nil before the first.
	Topology() *cluster.Topology
	// OnTopology calls f with the present topology, if there is one, and with each newer
	// one, in order, from one goroutine at a time; f must not block. stop ends that.
	OnTopology(f func(*cluster.Topology)) (stop func())

	Volume(context.Context, id.Volume) (*cluster.Volume, error)
	// FindVolume takes a disk's name, or its id as text.
	FindVolume(ctx context.Context, nameOrID string) (*cluster.Volume, error)
	// FindKept is FindVolume; it also finds a disk that is deleted and kept for its snapshots.
	FindKept(ctx context.Context, nameOrID string) (*cluster.Volume, error)
	// Volumes lists the volumes named after after, in order of names, and tells whether there are more.
	Volumes(ctx context.Context, after string, limit int) ([]cluster.Summary, bool, error)

	// Acquire makes by the owner under a new epoch, or tells who is. After an unknown
	// outcome ask again: the same holder gets another, higher epoch.
	Acquire(ctx context.Context, v id.Volume, by id.Holder, why AcquireWhy) (Acquired, error)
	// Release gives the volume up; nothing may be served under the epoch when it is called.
	Release(ctx context.Context, v id.Volume, e id.Epoch, by id.Holder) error

	AddEnsemble(context.Context, AddEnsemble) (*cluster.Volume, error)
	CloseEnsemble(context.Context, CloseEnsemble) (*cluster.Volume, error)
	RemoveEnsembles(context.Context, RemoveEnsembles) (*cluster.Volume, error)
	// ReplaceList makes keep the whole list: recovery is finished and the caller may serve.
	ReplaceList(ctx context.Context, at ListVersion, keep id.Ensemble) (*cluster.Volume, error)

	// AllocRange gives fresh segment sequences.
	AllocRange(ctx context.Context, v id.Volume, e id.Epoch) (Range, error)
	// ForgetSpans drops the spans of epochs below below: their leftovers are reaped.
	ForgetSpans(ctx context.Context, v id.Volume, e, below id.Epoch) error
	// CommitCheckpoint is accepted under the current epoch only, and only when it is above the last.
	CommitCheckpoint(ctx context.Context, v id.Volume, e id.Epoch, c cluster.Checkpoint) error

	// RestoreWhole says that nothing of a volume lies in its archive any more: a checkpoint that says so is committed.
	RestoreWhole(ctx context.Context, v id.Volume, e id.Epoch) error
	// VolumeFlattened says that nothing of a volume reads an ancestor any more: a checkpoint that says so is committed.
	VolumeFlattened(ctx context.Context, v id.Volume, e id.Epoch) error

	// EnsurePlacement sees to it that there are placement groups over healthy stores
	// other than exclude, and returns the topology with them. OnTopology hears of it too.
	EnsurePlacement(ctx context.Context, exclude []id.Store) (*cluster.Topology, error)
	// ReportStore complains about a store that does not answer or errs.
	ReportStore(ctx context.Context, by id.Host, s cluster.StoreRef, problem string) error
	// ConfirmPurge says that the store holds nothing of a deleted volume any more, durably.
	ConfirmPurge(ctx context.Context, by id.Host, s cluster.StoreRef, v id.Volume) error

	Close() error
}

// Registration is what a host says of itself when it starts.
type Registration struct {
	Holder      id.Holder
	DataAddress string
	Zone        string
	Exports     bool
	NBDUnixPath string
	NBDTCP      string
	NBDTLS      bool
	Stores      []RegisteredStore
	ClusterID   [16]byte // zero: takes whichever cluster it finds
}

// RegisteredStore is one store of a Registration.
type RegisteredStore struct {
	cluster.StoreRef
	Capacity uint64
}

// Registered is metad's answer.
type Registered struct {
	ClusterID [16]byte
	Settings  cluster.Settings
	// Refused stores must serve nothing; the text says why.
	Refused  map[id.Store]string
	Topology *cluster.Topology
	// Floors are the epochs of all volumes: who writes under an earlier one was granted it before metad was restored, or is being replaced.
	Floors map[id.Volume]id.Epoch
}

// Heartbeat is what a host says of itself every HeartbeatInterval.
type Heartbeat struct {
	Holder  id.Holder
	Stores  []StoreBeat
	Volumes []VolumeBeat // those it owns
	Memory  []cluster.Memory
	// HeapLimit is above which the process does not grow, Heap what counts against it.
	HeapLimit, Heap uint64
	CPU             time.Duration
	ResidentBytes   uint64
	Waits           []cluster.StoreWait // for stores here and elsewhere, since the heartbeat before
	// Events are what happened here; each is told again until EventsTaken names it.
	Events []Event
	// Identity is the host's certificate; nil: not told.
	Identity *cluster.Identity
	// Sealed: stores here create no streams until they have the reply's Floors.
	Sealed bool
}

// Severity is how much an event matters.
type Severity uint8

// The severities.
const (
	Info    Severity = iota + 1
	Warning          // unexpected; the cluster copes
	Trouble          // somebody should look
)

// Event is one thing that happened on a host. N rises within one life of it.
type Event struct {
	N                          uint64
	At                         time.Time
	Severity                   Severity
	Kind, About, Subject, Text string
}

// EventsPerBeatMax bounds Heartbeat.Events.
const EventsPerBeatMax = 32

// StoreBeat is one store of a Heartbeat.
type StoreBeat struct {
	cluster.StoreRef
	Capacity, Used       uint64
	LogUsed, LogCapacity uint64
	Full                 bool
	Dead                 string // why; empty: it serves
	// Streams is a page of at most StreamPageMax streams the store has; it goes round.
	Streams []VolumeEnsemble
	// Repairs are the groups whose shards the store was given.
	Repairs []RepairBeat
	Care    cluster.Care
	Scrubs  []cluster.ScrubProgress // asked for lately
	Stuck   []id.Segment            // of which a shard cannot be rebuilt now
	Free    uint64                  // bytes it takes before it calls itself full
	Traffic cluster.StoreTraffic
	Groups  []cluster.GroupUse
	Use     *cluster.VolumeUsePage // goes round; nil: nothing is told
	Remains []cluster.Remain       // of groups that were given a better code
}

// RepairBeat is how far a store has come with the shards of one group.
type RepairBeat struct {
	PG      id.PG
	Version uint32
	// Whole: nothing that belongs to the store under this version is missing, and
	// nothing coded under an older one can be born any more.
	Whole                                bool
	Done, Left                           uint64 // segments
	BytesDone, BytesLeft, BytesPerSecond uint64
	Stuck                                uint32 // segments of which too few shards are right
	Problem                              string
}

// StreamPageMax bounds StoreBeat.Streams.
const StreamPageMax = 1024

// VolumeEnsemble names the streams of one ensemble of one volume.
type VolumeEnsemble struct {
	Volume   id.Volume
	Ensemble id.Ensemble
}

// VolumeBeat is one owned volume of a Heartbeat.
type VolumeBeat struct {
	Volume   id.Volume
	Epoch    id.Epoch
	Unpacked uint64
	Sessions uint32
	State    VolumeState
	Problem  string
	Space    *cluster.Space // nil while it is being opened
	Cleaning cluster.Cleaning
	Traffic  cluster.Traffic
	Lost     *cluster.Lost  // the sum of the last look; nil: nobody looked
	Looks    []cluster.Lost // answers to looks that were asked for

	Hydration  *cluster.Hydration  // nil: nothing lies in an archive
	Flattening *cluster.Flattening // nil: it is not to be flattened
}

// VolumeState is how an owned volume fares.
type VolumeState uint8

// The states.
const (
	VolumeOpening VolumeState = iota + 1
	VolumeServing
	VolumeDraining
	VolumeStuck // cannot serve or acknowledge now
)

// HeartbeatReply is metad's answer.
type HeartbeatReply struct {
	TopologyVersion uint64
	Volumes         []VolumeNews
	Purges          []Purge
	Drops           []DropStreams
	// Gone are stores of the heartbeat that were removed for good: close them.
	Gone []cluster.StoreRef
	// Rescues are volumes that nobody owns and whose journal misses a store. Opening one
	// copies its journal to a full ensemble; release it then, unless somebody attached.
	// The same volume is named again until it is done.
	Rescues []id.Volume
	// Handoffs are owned volumes that are to go to another host, Opens those that another
	// has handed off to this one, which opens and keeps them.
	Handoffs, Opens []id.Volume
	// Floors are the epochs of all volumes, if Sealed asked for them.
	Floors map[id.Volume]id.Epoch
	// EventsTaken: up to this number events need not be told again.
	EventsTaken uint64
	// TrustHash is of the CAs that the cluster trusts: if the host's own differs it asks for
	// them. Empty: the cluster has never changed its CA.
	TrustHash []byte
	// Scrubs are looks at all shards that are asked of stores here, again until they tell of them.
	Scrubs []ScrubOrder
	// Looks are asked of owners here, again until they are answered; Doubts are segments that
	// stores call stuck.
	Looks  []LookOrder
	Doubts []id.Segment
}

// LookOrder asks an owner what of a volume cannot be read; with a zero id for a sum now and then.
type LookOrder struct {
	Volume id.Volume
	cluster.Look
}

// ScrubOrder asks a store to look at all its shards, or at those of one volume.
type ScrubOrder struct {
	Store  id.Store
	ID     [16]byte
	Volume id.Volume // zero: all
}

// VolumeNews tells an owner what metad has of a volume of its heartbeat. Unless Owned,
// the caller was fenced by Epoch.
type VolumeNews struct {
	Volume  id.Volume
	Epoch   id.Epoch
	Owned   bool
	Deleted bool
	Size    uint64
	QoS     cluster.QoS
	// HydrateRate is how many bytes a second are brought in from an archive; 0: the default.
	HydrateRate uint64
	// Flatten is the order to flatten a clone; nil: there is none.
	Flatten *cluster.Flatten
	// NoRollback: none is under way under this epoch.
	NoRollback bool
}

// Purge asks a store to fence a deleted volume at Epoch, forget all of it, and have it confirmed.
type Purge struct {
	Store  id.Store
	Volume id.Volume
	Epoch  id.Epoch
}

// DropStreams asks a store to forget streams that are in no list any more: see storeproto.Drop.
type DropStreams struct {
	Store  id.Store
	Volume id.Volume
	Epoch  id.Epoch
	Keep   []id.Ensemble
}

// AcquireWhy says what an Acquire is for; it is logged, the rules are the same.
type AcquireWhy uint8

// The reasons.
const (
	AcquireOpen AcquireWhy = iota + 1
	AcquireTakeover
	AcquireHandoff
)

// Acquired has either Volume, the record under the new epoch, or Refused.
type Acquired struct {
	Volume  *cluster.Volume
	Refused *Refused
}

// Refused tells who owns a volume.
type Refused struct {
	Owner       id.Holder
	DataAddress string
	Epoch       id.Epoch
	RetryAfter  time.Duration
}

// ListVersion is what every change of a volume's list compares.
type ListVersion struct {
	Volume  id.Volume
	Epoch   id.Epoch
	Version uint64
}

// AddEnsemble adds a successor at the end of the list.
type AddEnsemble struct {
	At      ListVersion
	Exclude []id.Store
	// Want stores (0: 3); if there are not as many to choose from, at least Fallback (0: 2), else ErrUnavailable.
	Want, Fallback int
	// Better asks for one on more hosts than the newest, or on as many with more stores; else ErrUnavailable.
	Better bool
}

// CloseEnsemble closes an ensemble that has a successor: the bounds of what counts in
// it, and the two stores that hold it whole.
type CloseEnsemble struct {
	At               ListVersion
	Ensemble         id.Ensemble
	From, To         id.LSN
	MetaFrom, MetaTo id.LSN
	Holders          []cluster.StoreRef
}

// RemoveEnsembles drops closed ensembles whose LSNs are all released and whose meta
// stream the committed checkpoint covers.
type RemoveEnsembles struct {
	At        ListVersion
	Ensembles []id.Ensemble
	Released  id.LSN
}

// Range is Count segment sequences from First, for Epoch only.
type Range struct {
	Epoch id.Epoch
	First id.Sequence
	Count uint32
}

func milliseconds(v uint32) time.Duration { return time.Duration(v) * time.Millisecond }
