package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/objectstore"
)

// Backups keeps copies of metad's state in the archive. Several snapshotds may share an archive: whoever looks
// first when one is due takes it, and if two do, there are two.
type Backups struct {
	Store   objectstore.Store
	Secret  *archive.Secret
	Cluster string
	Every   time.Duration
	Keep    int
	// Fetch asks metad for its state, as a file, and for the entry of its log that is in it.
	Fetch func(ctx context.Context) (file []byte, entry uint64, err error)
	Wall  func() time.Time
	// Lock is for how long one stays, whoever wants it gone, from when it was taken. Those stay beside the number that is kept.
	Lock Locking
}

// Kept is what there is after a look.
type Kept struct {
	Newest archive.Backup // zero: none
	Count  int
	Wrote  bool // Newest was just taken
}

// Step looks what there is and takes a backup if one is due. What it gives beside an error is what there was.
// The next one is due a turn after the newest.
func (b *Backups) Step(ctx context.Context) (k Kept, err error) {
	all, err := b.list(ctx)
	if err != nil {
		return k, err
	}
	if k.Count = len(all); k.Count > 0 {
		k.Newest = all[k.Count-1]
	}
	if b.due(k.Newest) > 0 {
		return k, b.lock(ctx, k.Newest) // who took it may have died before, or have had no lock to give
	}
	x, err := b.take(ctx)
	if err != nil {
		return k, err
	}
	k.Newest, k.Wrote = x, true
	k.Count, err = b.prune(ctx, x.Key)
	return k, err
}

// due is how long it is until the next one.
func (b *Backups) due(newest archive.Backup) time.Duration {
	if now := b.Wall(); newest.Key != "" && !newest.Taken.After(now) {
		return newest.Taken.Add(b.Every).Sub(now)
	}
	return 0
}

// list gives this cluster's, in the order in which they are to go. Those from the future were taken under a clock that
// was wrong: they hold no other up, neither from being taken nor from being kept, and go first.
func (b *Backups) list(ctx context.Context) ([]archive.Backup, error) {
	all, err := archive.ListBackups(ctx, b.Store, b.Cluster)
	if err != nil {
		return nil, err
	}
	now := b.Wall()
	past := func(x archive.Backup) int {
		if x.Taken.After(now) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(all, func(x, y archive.Backup) int { return past(x) - past(y) })
	return all, nil
}

// lockedUntil is until when one is locked, or is to be.
func (b *Backups) lockedUntil(x archive.Backup) time.Time { return x.Taken.Add(b.Lock.For) }

// lock locks one that is there, unless its time is over.
func (b *Backups) lock(ctx context.Context, x archive.Backup) error {
	until := b.lockedUntil(x)
	if b.Lock.For == 0 || !until.After(b.Wall()) {
		return nil
	}
	if err := b.Store.Extend(ctx, x.Key, objectstore.Lock{Until: until, Mode: b.Lock.Mode}); err != nil {
		return fmt.Errorf("lock backup %s: %w", x.Key, err)
	}
	return nil
}

// take puts a new one. It counts when it was read back whole, and is locked only then, for one that is damaged must go: until
// then nothing else goes.
func (b *Backups) take(ctx context.Context) (x archive.Backup, err error) {
	file, entry, err := b.Fetch(ctx)
	if err != nil {
		return x, fmt.Errorf("ask metad for its state: %w", err)
	}
	_, is, err := archive.DecodeBackup("what metad gave", file, nil)
	if err != nil {
		return x, err
	}
	if is.Cluster != b.Cluster {
		return x, fmt.Errorf("metad gave the state of cluster %s, not of %s: %w", is.Cluster, b.Cluster, errs.ErrInvalid)
	}
	object := archive.EncodeBackup(file, b.Secret)
	taken := b.Wall().UTC().Truncate(time.Second)
	x = archive.Backup{Key: archive.BackupKey(b.Cluster, taken, entry), Cluster: b.Cluster, Taken: taken, Entry: entry, Size: uint64(len(object))}
	if err := b.Store.Put(ctx, x.Key, object); err != nil {
		return x, fmt.Errorf("put backup %s: %w", x.Key, err)
	}
	if got, _, err := archive.ReadBackup(ctx, b.Store, x.Key, b.Secret); err != nil || !bytes.Equal(got, file) {
		if err == nil {
			err = fmt.Errorf("other bytes than were written: %w", errs.ErrCorrupt)
		}
		// What is not right is not to be found as the newest. If it cannot be deleted, it is refused by its checksum.
		return x, fmt.Errorf("read backup %s back: %w", x.Key, errors.Join(err, b.spoilt(ctx, x.Key, err)))
	}
	return x, b.lock(ctx, x)
}

// spoilt deletes a backup that was read back damaged; one that could not be read may be right, and stays.
func (b *Backups) spoilt(ctx context.Context, key string, err error) error {
	if errors.Is(err, errs.ErrCorrupt) {
		return b.Store.Delete(ctx, key)
	}
	return nil
}

// prune deletes those that are too many, never the one just taken nor what is locked, and gives how many are left.
func (b *Backups) prune(ctx context.Context, newest string) (left int, err error) {
	all, err := b.list(ctx)
	if err != nil {
		return 1, err
	}
	left, now := len(all), b.Wall()
	for _, x := range all[:max(0, len(all)-b.Keep)] {
		if x.Key == newest || b.Lock.For > 0 && !x.Taken.After(now) && b.lockedUntil(x).After(now) {
			continue
		}
		e := b.Store.Delete(ctx, x.Key)
		if errors.Is(e, objectstore.ErrLocked) {
			continue // for longer than is asked for now, and it goes when that has ended
		}
		if e != nil {
			err = errors.Join(err, fmt.Errorf("delete backup %s: %w", x.Key, e))
			continue
		}
		left--
	}
	return left, err
}
