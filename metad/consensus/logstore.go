package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/telemetry"
)

// FORMAT.md has the keys and values.
const (
	prefixLog    = 'l'
	prefixStable = 's'
	entryVersion = 1
	entryDataMax = 64 << 20
)

var keyFormat = []byte("f")

const formatVersion = 1

// LogStore is raft's log and stable store on one Pebble. What a method has written is
// durable when it returns.
type LogStore struct {
	db  *pebble.DB
	log *slog.Logger

	// Reads of the bounds are hot in raft; they are kept beside the store. A write holds
	// mu over its sync: raft writes from one goroutine at a time anyway.
	mu struct {
		sync.Mutex
		first, last uint64 // 0: empty
	}
}

var (
	_ raft.LogStore          = (*LogStore)(nil)
	_ raft.StableStore       = (*LogStore)(nil)
	_ raft.MonotonicLogStore = (*LogStore)(nil)
)

// LogStoreOptions say where the store lies.
type LogStoreOptions struct {
	Dir string
	FS  vfs.FS // nil: the disk
	Log *slog.Logger
	// Fatal is told what Pebble cannot survive; the goroutine that met it never returns.
	Fatal func(message string)
}

// OpenLogStore opens or makes the store.
func OpenLogStore(o LogStoreOptions) (*LogStore, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	db, err := pebble.Open(o.Dir, &pebble.Options{
		FS:                          o.FS,
		Logger:                      telemetry.Pebble(o.Log, o.Fatal),
		FormatMajorVersion:          pebble.FormatVirtualSSTables,
		CacheSize:                   logCacheBytes,
		MemTableSize:                memTableBytes,
		MemTableStopWritesThreshold: memTablesWaiting,
		L0CompactionThreshold:       2,
	})
	if err != nil {
		return nil, fmt.Errorf("open raft log %s: %w", o.Dir, err)
	}
	s := &LogStore{db: db, log: o.Log}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open raft log %s: %w", o.Dir, err), db.Close())
	}
	return s, nil
}

// load checks the format and finds the bounds.
func (s *LogStore) load() error {
	v, err := s.get(keyFormat)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		if err := s.db.Set(keyFormat, []byte{formatVersion}, pebble.Sync); err != nil {
			return err
		}
	case err != nil:
		return err
	case len(v) != 1 || v[0] != formatVersion:
		return fmt.Errorf("format %x is not known: %w", v, errs.ErrInvalid)
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixLog}, UpperBound: []byte{prefixLog + 1}})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if it.First() {
		s.mu.first = binary.BigEndian.Uint64(it.Key()[1:])
	}
	if it.Last() {
		s.mu.last = binary.BigEndian.Uint64(it.Key()[1:])
	}
	return it.Close()
}

// Close closes the store. Not after Fatal: it would wait for the parked goroutine.
func (s *LogStore) Close() error { return s.db.Close() }

func (s *LogStore) get(key []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(v), closer.Close()
}

func logKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixLog}, index)
}

func stableKey(key []byte) []byte { return append([]byte{prefixStable}, key...) }

// FirstIndex is part of raft.LogStore.
func (s *LogStore) FirstIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.first, nil
}

// LastIndex is part of raft.LogStore.
func (s *LogStore) LastIndex() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.last, nil
}

// GetLog is part of raft.LogStore.
func (s *LogStore) GetLog(index uint64, into *raft.Log) error {
	v, closer, err := s.db.Get(logKey(index))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return fmt.Errorf("read raft entry %d: %w", index, err)
	}
	err = decodeEntry(index, v, into)
	return errors.Join(err, closer.Close())
}

// StoreLog is part of raft.LogStore.
func (s *LogStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes the entries in one batch and one sync. They must follow the last
// one without a gap; raft deletes what it means to overwrite before it writes.
func (s *LogStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.db.NewBatch()
	next := s.mu.last + 1
	for _, l := range logs {
		if s.mu.last == 0 && l == logs[0] {
			next = l.Index
		}
		if l.Index != next {
			return errors.Join(fmt.Errorf("store raft entry %d: want %d next: %w", l.Index, next, errs.ErrConflict), b.Close())
		}
		next++
		if err := b.Set(logKey(l.Index), encodeEntry(l), nil); err != nil {
			return errors.Join(fmt.Errorf("store raft entry %d: %w", l.Index, err), b.Close())
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return errors.Join(fmt.Errorf("store raft entries %d to %d: %w", logs[0].Index, next-1, err), b.Close())
	}
	if s.mu.first == 0 {
		s.mu.first = logs[0].Index
	}
	s.mu.last = next - 1
	return b.Close()
}

// DeleteRange deletes the entries from low to high, both included, at the start of the
// log, at its end, or all of it.
func (s *LogStore) DeleteRange(low, high uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.first == 0 || high < s.mu.first || low > s.mu.last || low > high {
		return nil
	}
	if low > s.mu.first && high < s.mu.last {
		return fmt.Errorf("delete raft entries %d to %d out of the middle of %d to %d: %w", low, high, s.mu.first, s.mu.last, errs.ErrInvalid)
	}
	end := []byte{prefixLog + 1}
	if high < math.MaxUint64 {
		end = logKey(high + 1)
	}
	if err := s.db.DeleteRange(logKey(low), end, pebble.Sync); err != nil {
		return fmt.Errorf("delete raft entries %d to %d: %w", low, high, err)
	}
	switch {
	case low <= s.mu.first && high >= s.mu.last:
		s.mu.first, s.mu.last = 0, 0
	case low <= s.mu.first:
		s.mu.first = high + 1
	default:
		s.mu.last = low - 1
	}
	return nil
}

// IsMonotonic tells raft that there are no gaps.
func (s *LogStore) IsMonotonic() bool { return true }

// Set is part of raft.StableStore.
func (s *LogStore) Set(key, val []byte) error {
	if err := s.db.Set(stableKey(key), val, pebble.Sync); err != nil {
		return fmt.Errorf("store raft %s: %w", key, err)
	}
	return nil
}

// Get is part of raft.StableStore; what is not there is empty.
func (s *LogStore) Get(key []byte) ([]byte, error) {
	v, err := s.get(stableKey(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read raft %s: %w", key, err)
	}
	return v, nil
}

// SetUint64 is part of raft.StableStore.
func (s *LogStore) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.LittleEndian.AppendUint64(nil, val))
}

// GetUint64 is part of raft.StableStore; what is not there is 0.
func (s *LogStore) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil || len(v) == 0 {
		return 0, err
	}
	if len(v) != 8 {
		return 0, &errs.Corrupt{Place: "raft " + string(key), What: "bytes", Want: 8, Got: uint64(len(v))}
	}
	return binary.LittleEndian.Uint64(v), nil
}

func encodeEntry(l *raft.Log) []byte {
	b := make([]byte, 0, 32+len(l.Data)+len(l.Extensions))
	b = append(b, entryVersion, byte(l.Type))
	b = binary.LittleEndian.AppendUint64(b, l.Index)
	b = binary.LittleEndian.AppendUint64(b, l.Term)
	at := int64(0)
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = append(binary.AppendUvarint(b, uint64(len(l.Data))), l.Data...)
	return append(binary.AppendUvarint(b, uint64(len(l.Extensions))), l.Extensions...)
}

// decodeEntry fills into with copies. Pebble has checked the bytes against its sums.
func decodeEntry(index uint64, v []byte, into *raft.Log) error {
	return codec.Decode(fmt.Sprintf("raft entry %d", index), v, func(r *codec.Reader) {
		if got := r.U8(); got != entryVersion {
			r.Fail("version", entryVersion, uint64(got))
		}
		l := raft.Log{Type: raft.LogType(r.U8()), Index: r.U64(), Term: r.U64()}
		if r.Err() == nil && l.Index != index {
			r.Fail("index", index, l.Index)
		}
		if at := int64(r.U64()); at != 0 {
			l.AppendedAt = time.Unix(0, at)
		}
		l.Data = bytes.Clone(r.Bytes(r.Count(entryDataMax, 1)))
		if ext := r.Bytes(r.Count(entryDataMax, 1)); len(ext) > 0 {
			l.Extensions = bytes.Clone(ext)
		}
		if r.Err() == nil {
			*into = l
		}
	})
}
