package log

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// carryBytes is how much is copied in one log write.
const carryBytes = 1 << 20

func (l *Log) freeLocked(f *file) bool {
	return f != l.cur && f.batches == 0 && f.pins == 0
}

// takeFree gives a file to write over, or makes one while there may be more.
func (l *Log) takeFree() (*file, error) {
	if f := l.anyFree(); f != nil {
		return f, nil
	}
	l.preparing.Lock() // perhaps one is just being made
	defer l.preparing.Unlock()
	if f := l.anyFree(); f != nil {
		return f, nil
	}
	return l.makeFile()
}

// Prepare makes a file ahead of need: if none is free and there may be more. Any
// goroutine may call it.
func (l *Log) Prepare() error {
	l.preparing.Lock()
	defer l.preparing.Unlock()
	if l.anyFree() != nil || l.Stats().Files >= l.o.FilesMax {
		return nil
	}
	_, err := l.makeFile()
	return err
}

func (l *Log) anyFree() *file {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.mu.files {
		if f != nil && l.freeLocked(f) {
			return f
		}
	}
	return nil
}

// makeFile makes one in the first slot that has none.
func (l *Log) makeFile() (*file, error) {
	l.mu.Lock()
	slot := slices.Index(l.mu.files, nil)
	if slot < 0 {
		slot = len(l.mu.files)
	}
	l.mu.Unlock()
	if slot >= l.o.FilesMax {
		return nil, fmt.Errorf("all %d files of the log are in use: %w", l.o.FilesMax, errs.ErrNoSpace)
	}
	f, err := l.create(uint32(slot))
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if slot == len(l.mu.files) {
		l.mu.files = append(l.mu.files, nil)
	}
	l.mu.files[slot] = f
	return f, nil
}

// nextFile heads a free file and makes it the current one.
//
// Order: everything the table says is durable before (the writer is the only
// one, and it has synced); the head; fdatasync. What is written over was free by
// knowledge that is durable outside this file.
func (l *Log) nextFile() error {
	f, err := l.takeFree()
	if err != nil {
		return err
	}
	t := Table{Streams: l.o.Table()}
	l.mu.Lock()
	for _, have := range l.mu.files {
		if have != nil && have != f && have.seq != 0 && !l.freeLocked(have) {
			t.Files = append(t.Files, FileRange{Slot: have.slot, FileSeq: have.seq, First: have.first, Last: have.last})
		}
	}
	l.fileSeq++
	f.seq, f.first, f.last = l.fileSeq, l.seq+1, 0
	l.cur, l.off = f, 0
	l.mu.Unlock()
	slices.SortFunc(t.Files, func(a, b FileRange) int { return int(int64(a.FileSeq - b.FileSeq)) })
	return l.writeTable(Head, &t)
}

func (l *Log) writeTable(k Kind, t *Table) error {
	l.Begin(k)
	b := t.Append(nil)
	copy(l.w.room(len(b)), b)
	return l.write()
}

// seal writes a table at the end of the log, so that what a scan found torn
// there can never turn up whole later, and the tails it found stand.
func (l *Log) seal() error {
	t := Table{Streams: l.o.Table()}
	l.mu.Lock()
	for _, f := range l.mu.files {
		if f != nil && f != l.cur && f.seq != 0 && !l.freeLocked(f) {
			t.Files = append(t.Files, FileRange{Slot: f.slot, FileSeq: f.seq, First: f.first, Last: f.last})
		}
	}
	l.mu.Unlock()
	slices.SortFunc(t.Files, func(a, b FileRange) int { return int(int64(a.FileSeq - b.FileSeq)) })
	if l.cur == nil || l.off+roundUp(int64(HeaderSize+len(t.Append(nil)))) > l.o.FileBytes {
		return l.nextFile()
	}
	return l.writeTable(Seal, &t)
}

// Reserve keeps one free file in hand. The writer calls it between groups. While
// files may be added it only tells that one is wanted: see Prepare. When all are in use it
// copies the live batches of the file that has fewest into the current one, so
// that a quiet stream cannot pin the log.
//
// A file may keep batches for all that: those of a stream whose drop is in the
// queue are nobody's to carry and not free yet. Then the next file is tried.
func (l *Log) Reserve() (wanted bool, err error) {
	victims, wanted := l.victims()
	for _, f := range victims {
		err := l.carry(f)
		if errors.Is(err, errs.ErrNoSpace) {
			return false, nil // nothing was written; a release may come before the file is full
		}
		if err != nil {
			return false, err
		}
		if l.anyFree() != nil {
			return false, nil
		}
	}
	return wanted, nil
}

// victims gives the files to carry from, those with the fewest live bytes first;
// none while a file is free or may be added.
func (l *Log) victims() (victims []*file, wanted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, f := range l.mu.files {
		if f == nil {
			continue
		}
		n++
		if l.freeLocked(f) {
			return nil, false
		}
	}
	if n < l.o.FilesMax {
		return nil, true
	}
	for _, f := range l.mu.files {
		if f != nil && f != l.cur && f.pins == 0 {
			victims = append(victims, f)
		}
	}
	slices.SortFunc(victims, func(a, b *file) int { return cmp.Compare(a.live, b.live) })
	return victims, false
}

type carried struct {
	name  storeproto.Stream
	batch core.Batch
}

// carry copies every live batch of victim to the end of the log. A batch that
// cannot be read back is lost: that is the store's death, since it was durable.
func (l *Log) carry(victim *file) error {
	var all []carried
	l.o.Carry(victim.slot, func(name storeproto.Stream, b core.Batch) { all = append(all, carried{name, b}) })
	slices.SortFunc(all, func(a, b carried) int { return int(int64(a.batch.Pos.Head) - int64(b.batch.Pos.Head)) })
	r := l.NewReader()
	defer r.Close()
	for len(all) > 0 {
		l.Begin(Carried)
		var batches []*storeproto.Batch
		n, bytes := 0, 0
		for n < len(all) && (n == 0 || bytes+int(all[n].batch.Bytes) <= min(carryBytes, int(l.o.writeBytesMax()/2))) {
			a, err := r.Append(all[n].name, all[n].batch)
			if err != nil {
				return fmt.Errorf("carry live batch: %w", err)
			}
			l.Add(a)
			batches = append(batches, a.Batch)
			bytes += int(all[n].batch.Bytes)
			n++
		}
		err := l.Flush()
		for _, b := range batches {
			b.Release()
		}
		if err != nil {
			return err
		}
		for i, c := range all[:n] {
			to := l.Position(i)
			if l.o.Moved(c.name, c.batch, to) {
				l.Free(c.batch.Pos, c.batch.Bytes)
			} else {
				l.Free(to, c.batch.Bytes)
			}
		}
		l.mu.Lock()
		l.mu.stats.CarriedBytes += int64(bytes)
		l.mu.Unlock()
		all = all[n:]
	}
	return nil
}
