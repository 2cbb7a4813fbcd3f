package log

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
	"ashlar.dev/pkg/vfs"
)

// Options make a log.
type Options struct {
	FS          vfs.FS
	Dir         string
	Incarnation id.Incarnation
	// FileBytes is the size of one file, fixed at format.
	FileBytes int64
	// FilesMax bounds the number of files.
	FilesMax int
	// Table gives the streams for the head of a file; called by the writer.
	Table func() []StreamRow
	// Carry calls f for every live batch whose position is in a slot.
	Carry func(slot uint32, f func(name storeproto.Stream, b core.Batch))
	// Moved tells that a live batch was copied; false if it is not live any more.
	Moved func(name storeproto.Stream, b core.Batch, to core.Position) bool
}

// Limits that follow from the size of a file.
func (o *Options) writeBytesMax() int64 { return o.FileBytes / 2 }

// BatchBytesMax is the largest batch that a log with files of fileBytes takes.
func BatchBytesMax(fileBytes int64) int { return int(fileBytes / 4) }

// LiveBytesMax is how many bytes of live batches a log can hold for ever: any
// file recycled by carrying then frees a good part of itself.
func LiveBytesMax(fileBytes int64, filesMax int) int64 {
	return fileBytes * int64(filesMax-3) / 2
}

// FilesMin is the fewest files a log works with.
const FilesMin = 4

// Log is an open log. See the package comment.
type Log struct {
	o Options

	// of the writer
	cur     *file
	off     int64 // where the next log write goes
	seq     uint64
	fileSeq uint64
	w       writer

	// preparing is held while a file is made. Lock order: preparing, mu.
	preparing sync.Mutex
	mu        struct {
		sync.Mutex
		files []*file // by slot, nil where there is none
		stats Stats
	}
}

// Stats tells where the log stands.
type Stats struct {
	Files, FilesFree, FilesMax int
	FileBytes                  int64
	LiveBytes                  int64 // of batches
	Writes, Syncs              int64 // of the log since open
	Bytes                      int64 // written
	CarriedBytes               int64
}

type file struct {
	slot        uint32
	f           vfs.File
	name        string
	seq         uint64 // zero: free
	first, last uint64 // log writes
	live        int64  // bytes of live batches
	batches     int    // live batches
	pins        int    // readers
}

// writer gathers one log write.
type writer struct {
	head    *buf.Buffer
	n       int // bytes of head in use
	entries []entry
	pieces  [][]byte
	blocks  int
	bounce  []*buf.Buffer
	kind    Kind
}

type entry struct {
	head    int // offset in the head
	payload int // blocks before it
	bytes   int
	pos     core.Position
}

func slotName(slot uint32) string { return fmt.Sprintf("%06d.log", slot) }

// rawName is a file's name until it is pre-written.
func rawName(slot uint32) string { return fmt.Sprintf("%06d.raw", slot) }

func parseSlot(name string) (uint32, bool) {
	s, ok := strings.CutSuffix(name, ".log")
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), ok && err == nil && slotName(uint32(n)) == name
}

// Format makes the directory of a log with its first files. The caller syncs the
// parent directory.
func Format(o Options) error {
	if o.FilesMax < FilesMin || o.FileBytes%Block != 0 || o.FileBytes < 16*Block {
		return fmt.Errorf("format log of %d files of %d bytes: %w", o.FilesMax, o.FileBytes, errs.ErrInvalid)
	}
	if err := o.FS.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	l := &Log{o: o}
	for slot := range uint32(o.FilesMax) {
		if err := l.allot(slot); err != nil {
			return err
		}
	}
	for slot := range uint32(2) {
		f, err := l.create(slot)
		if err != nil {
			return err
		}
		l.mu.files = append(l.mu.files, f)
	}
	l.o.Table = func() []StreamRow { return nil }
	err := l.nextFile()
	l.closeFiles()
	return err
}

// allot gives a file its room on the disk, for which the log never asks again.
func (l *Log) allot(slot uint32) error {
	name := filepath.Join(l.o.Dir, rawName(slot))
	f, err := l.o.FS.OpenDirect(name, true)
	if err != nil {
		return fmt.Errorf("create log file: %w", err)
	}
	err = f.Preallocate(0, l.o.FileBytes)
	if err == nil {
		err = f.SyncData()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("allot log file %s: %w", name, err)
	}
	return nil
}

// create makes an allotted file ready: pre-written, durable, then under its name.
func (l *Log) create(slot uint32) (*file, error) {
	name := filepath.Join(l.o.Dir, slotName(slot))
	raw := filepath.Join(l.o.Dir, rawName(slot))
	f, err := l.o.FS.OpenDirect(raw, false)
	if err != nil {
		return nil, fmt.Errorf("prepare log file: %w", err)
	}
	err = vfs.Prewrite(f, 0, l.o.FileBytes)
	if err == nil {
		b := buf.Get(Block)
		clear(b.Bytes())
		h := Header{Kind: Blank, HeadBytes: HeaderSize}
		h.encode(b.Bytes(), l.o.Incarnation)
		_, err = f.WriteAt(b.Bytes(), 0)
		b.Release()
	}
	if err == nil {
		err = f.SyncData()
	}
	if err == nil {
		err = l.o.FS.Rename(raw, name)
	}
	if err == nil {
		err = vfs.SyncDir(l.o.FS, l.o.Dir)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("prepare log file %s: %w", name, err)
	}
	return &file{slot: slot, f: f, name: name}, nil
}

// Begin starts a log write of a kind.
func (l *Log) Begin(k Kind) {
	w := &l.w
	w.kind = k
	w.n, w.blocks = HeaderSize, 0
	w.entries = w.entries[:0]
	clear(w.pieces)
	w.pieces = append(w.pieces[:0], nil) // the head's place
	for _, b := range w.bounce {
		b.Release()
	}
	w.bounce = w.bounce[:0]
	w.room(0)
}

// room makes place for n more bytes in the head and gives them.
func (w *writer) room(n int) []byte {
	if w.head == nil || w.n+n > w.head.Len() {
		bigger := buf.Get(int(roundUp(int64(max(2*(w.n+n), 16*Block)))))
		if w.head != nil {
			copy(bigger.Bytes(), w.head.Bytes()[:w.n])
			w.head.Release()
		}
		w.head = bigger
	}
	p := w.head.Bytes()[w.n : w.n+n]
	w.n += n
	return p
}

// Add puts an append into the log write. The memory of its batch is read until Flush returns.
func (l *Log) Add(a *storeproto.Append) {
	b := a.Batch
	w := &l.w
	w.entries = append(w.entries, entry{head: w.n, payload: w.blocks, bytes: storeproto.HeaderSize + b.BodySize()})
	p := w.room(storeproto.HeaderSize + len(b.Meta) + 4*len(b.Sums))
	a.EncodeHeader(p)
	p = p[storeproto.HeaderSize:]
	copy(p, b.Meta)
	storeproto.AppendSums(p[len(b.Meta):len(b.Meta)], b.Sums)
	for _, piece := range b.Payload {
		w.payload(piece)
	}
	w.blocks += len(b.Sums)
}

// payload takes a piece as it is if the disk can, else a copy.
func (w *writer) payload(piece []byte) {
	if len(piece) == 0 {
		return
	}
	if !vfs.Aligned(piece) {
		c := buf.Get(len(piece))
		copy(c.Bytes(), piece)
		w.bounce = append(w.bounce, c)
		piece = c.Bytes()
	}
	w.pieces = append(w.pieces, piece)
}

// Seq is a number that the next log write is not below.
func (l *Log) Seq() uint64 { return l.seq + 1 }

// Position is where the i-th batch added lies, once Flush has returned.
func (l *Log) Position(i int) core.Position { return l.w.entries[i].pos }

// Flush writes and syncs what was added: durable when it returns nil. After an
// error the log must not be used any more.
//
// Order: the log write; fdatasync. If the file is full, first the next one is
// headed and synced.
func (l *Log) Flush() error {
	w := &l.w
	size := roundUp(int64(w.n)) + int64(w.blocks)*Block
	if size > l.o.writeBytesMax() {
		return fmt.Errorf("log write of %d bytes, limit %d: %w", size, l.o.writeBytesMax(), errs.ErrInvalid)
	}
	if l.off+size > l.o.FileBytes {
		saved := l.w
		l.w = writer{}
		if err := l.nextFile(); err != nil {
			return err
		}
		if l.w.head != nil {
			l.w.head.Release()
		}
		l.w = saved
	}
	return l.write()
}

// write puts the gathered log write at the end of the current file.
func (l *Log) write() error {
	w := &l.w
	h := Header{Kind: w.kind, FileSeq: l.fileSeq, Seq: l.seq + 1, HeadBytes: uint32(w.n),
		Blocks: uint32(w.blocks), Entries: uint32(len(w.entries))}
	size := h.Bytes()
	if l.off+size > l.o.FileBytes {
		return fmt.Errorf("log write of %d bytes at %d of a file of %d: %w", size, l.off, l.o.FileBytes, errs.ErrInvalid)
	}
	headEnd := roundUp(int64(w.n))
	w.room(int(headEnd) - w.n)
	head := w.head.Bytes()[:headEnd]
	clear(head[h.HeadBytes:])
	h.encode(head, l.o.Incarnation)
	w.pieces[0] = head
	if _, err := l.cur.f.WritevAt(w.pieces, l.off); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	if err := l.cur.f.SyncData(); err != nil {
		return fmt.Errorf("sync log: %w", err)
	}
	for i := range w.entries {
		e := &w.entries[i]
		e.pos = core.Position{File: l.cur.slot, Head: uint32(l.off) + uint32(e.head),
			Payload: uint32(l.off + headEnd + int64(e.payload)*Block)}
	}
	l.off += size
	l.seq++
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cur.last = l.seq
	for i := range w.entries {
		l.cur.live += int64(w.entries[i].bytes)
		l.cur.batches++
	}
	l.mu.stats.Writes++
	l.mu.stats.Syncs++
	l.mu.stats.Bytes += size
	return nil
}

// Free tells that the batch at pos is not live any more.
func (l *Log) Free(pos core.Position, bytes uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.mu.files[pos.File]
	f.live -= int64(bytes)
	f.batches--
}

// Pin keeps the file of a slot from being recycled until Unpin.
func (l *Log) Pin(slot uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.files[slot].pins++
}

// Unpin ends a Pin.
func (l *Log) Unpin(slot uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.files[slot].pins--
}

// Stats tells where the log stands.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.mu.stats
	s.FilesMax, s.FileBytes = l.o.FilesMax, l.o.FileBytes
	for _, f := range l.mu.files {
		if f == nil {
			continue
		}
		s.Files++
		s.LiveBytes += f.live
		if l.freeLocked(f) {
			s.FilesFree++
		}
	}
	return s
}

// Close closes the files; nothing else may be called meanwhile or after.
func (l *Log) Close() error { return l.closeFiles() }

func (l *Log) closeFiles() error {
	var first error
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.mu.files {
		if f == nil {
			continue
		}
		if err := f.f.Close(); err != nil && first == nil {
			first = err
		}
	}
	l.mu.files = nil
	return first
}
