package log

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"ashlar.dev/pkg/buf"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/storeproto"
	"ashlar.dev/pkg/storeproto/core"
)

// Scan is what an open found.
type Scan struct {
	// Streams has every stream asked for, found or not.
	Streams map[storeproto.Stream]*Scanned
	// Holes are log writes that were synced and are not there any more, as places.
	Holes []string
	// TornBytes is the length of an unsynced tail that was cut off, zero if none was seen.
	TornBytes int64
	// HeadLost: no table was found at all; every stream's tail is lost.
	HeadLost bool
}

// Scanned is one stream as the log has it.
type Scanned struct {
	Released id.LSN
	Tail     id.LSN // the highest known to have been durable
	TailLost bool
	Batches  []core.Batch

	from    Origin
	suspect bool
}

// Origin is where a stream begins.
type Origin struct {
	Base id.LSN
	// Since is the first log write that may have batches of it. Older ones of its
	// name are left over from a creation that a crash undid.
	Since uint64
}

// Open opens a log and scans it. streams are those that exist; what the log has of others is left over from dropped ones. The log takes
// batches only after Start.
func Open(o Options, streams map[storeproto.Stream]Origin) (*Log, *Scan, error) {
	l := &Log{o: o}
	s := &scanner{l: l, out: Scan{Streams: make(map[storeproto.Stream]*Scanned)}}
	for name, from := range streams {
		s.out.Streams[name] = &Scanned{from: from}
	}
	err := l.openFiles()
	if err == nil {
		err = s.run()
	}
	s.buf.Release()
	if err != nil {
		l.closeFiles()
		return nil, nil, fmt.Errorf("open log %s: %w", o.Dir, err)
	}
	return l, &s.out, nil
}

// Start tells which of the batches found are live and seals the log.
func (l *Log) Start(live func(f func(core.Batch))) error {
	l.mu.Lock()
	live(func(b core.Batch) {
		f := l.mu.files[b.Pos.File]
		f.live += int64(b.Bytes)
		f.batches++
	})
	l.mu.Unlock()
	return l.seal()
}

func (l *Log) openFiles() error {
	names, err := l.o.FS.List(l.o.Dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		path := filepath.Join(l.o.Dir, name)
		slot, ok := parseSlot(name)
		if !ok {
			continue // still raw
		}
		f, err := l.o.FS.OpenDirect(path, false)
		if err != nil {
			return err
		}
		for len(l.mu.files) <= int(slot) {
			l.mu.files = append(l.mu.files, nil)
		}
		l.mu.files[slot] = &file{slot: slot, f: f, name: path}
	}
	return nil
}

type scanner struct {
	l   *Log
	out Scan
	buf *buf.Buffer // a whole file
	raw []byte      // what of it was read

	newer error // of a log write by a later version of this program
}

func (s *scanner) load(f *file) error {
	if s.buf == nil {
		if s.l.o.FileBytes <= buf.LenMax {
			s.buf = buf.Get(int(s.l.o.FileBytes))
		}
	}
	if s.buf != nil {
		s.raw = s.buf.Bytes()
	} else if s.raw == nil {
		s.raw = alignedBytes(int(s.l.o.FileBytes))
	}
	size, err := f.f.Size()
	if err != nil {
		return err
	}
	if size != s.l.o.FileBytes {
		return &errs.Corrupt{Place: f.name, Offset: -1, What: "file bytes", Want: uint64(s.l.o.FileBytes), Got: uint64(size)}
	}
	_, err = f.f.ReadAt(s.raw, 0)
	return err
}

// run applies the scan rule. See FORMAT.md.
func (s *scanner) run() error {
	if err := s.scan(); err != nil {
		return err
	}
	return s.newer // what it wrote must not pass for the end of the log
}

func (s *scanner) scan() error {
	newest, table, err := s.newest()
	if err != nil {
		return err
	}
	if newest == nil {
		return s.headless()
	}
	s.table(&table, true)
	for _, r := range table.Files {
		if err := s.closed(r); err != nil {
			return err
		}
	}
	if err := s.open(newest); err != nil {
		return err
	}
	if err := s.stray(newest.seq); err != nil {
		return err
	}
	for _, st := range s.out.Streams {
		st.TailLost = st.TailLost || st.suspect
	}
	return nil
}

// headless takes what there is of a log without a single good head. Its numbers
// go on above everything seen.
func (s *scanner) headless() error {
	s.out.HeadLost = true
	s.hole("every head")
	for _, st := range s.out.Streams {
		st.TailLost = true
	}
	for _, f := range s.l.mu.files {
		if f == nil {
			continue
		}
		if err := s.load(f); err != nil {
			return err
		}
		for off := int64(0); off < s.l.o.FileBytes; off += Block {
			h, err := DecodeHeader(f.name, s.raw[off:], s.l.o.Incarnation, s.l.o.FileBytes-off)
			s.note(err)
			if err != nil || h.Kind == Blank {
				continue
			}
			s.take(f, off, &h, false)
			f.seq, f.first, f.last = h.FileSeq, 0, h.Seq
			s.l.seq, s.l.fileSeq = max(s.l.seq, h.Seq), max(s.l.fileSeq, h.FileSeq)
		}
	}
	return nil
}

// newest finds the file with the highest sequence that has a whole head. The
// heads are read first; only the newest one's table is kept.
func (s *scanner) newest() (newest *file, table Table, err error) {
	b := buf.Get(Block)
	defer b.Release()
	for _, f := range s.l.mu.files {
		if f == nil {
			continue
		}
		if _, err := f.f.ReadAt(b.Bytes(), 0); err != nil {
			return nil, table, err
		}
		h, t, err := s.head(f, b.Bytes())
		if err != nil && !errors.Is(err, errs.ErrCorrupt) {
			return nil, table, err
		}
		if err != nil || h.Kind != Head {
			continue
		}
		f.seq, f.first = h.FileSeq, h.Seq
		if newest == nil || f.seq > newest.seq {
			newest, table = f, t
		}
	}
	return newest, table, nil
}

// head reads the first log write of a file, whose first block is in b.
func (s *scanner) head(f *file, b []byte) (h Header, t Table, err error) {
	n := int64(headBytes(b))
	if n > Block && n <= s.l.o.writeBytesMax() {
		big := buf.Get(int(roundUp(n)))
		defer big.Release()
		if _, err := f.f.ReadAt(big.Bytes(), 0); err != nil {
			return h, t, err
		}
		b = big.Bytes()
	}
	h, err = DecodeHeader(f.name, b, s.l.o.Incarnation, s.l.o.FileBytes)
	if err == nil && h.Kind == Head {
		t, err = DecodeTable(f.name, b[HeaderSize:h.HeadBytes])
	}
	return h, t, err
}

// table takes in what a table says. A suspect stream whose tail is what was
// found is whole.
func (s *scanner) table(t *Table, first bool) {
	for _, r := range t.Streams {
		st := s.out.Streams[r.Stream]
		if st == nil {
			continue
		}
		if !first && r.Tail >= st.Tail {
			st.suspect = false // what is missing up to r.Tail shows as a gap
		}
		st.Released = max(st.Released, r.Released)
		st.Tail = max(st.Tail, r.Tail)
	}
}

// closed takes in the batches of a closed file. Whether one that is not there
// matters is seen by the streams.
func (s *scanner) closed(r FileRange) error {
	var f *file
	if int(r.Slot) < len(s.l.mu.files) {
		f = s.l.mu.files[r.Slot]
	}
	if f == nil || f.seq != 0 && f.seq != r.FileSeq {
		s.hole("file %d with writes %d to %d", r.Slot, r.First, r.Last)
		return nil
	}
	f.seq, f.first, f.last = r.FileSeq, r.First, r.Last // its head may be lost, the rest not
	if err := s.load(f); err != nil {
		return err
	}
	next := r.First
	for off := int64(0); off < s.l.o.FileBytes && next <= r.Last; {
		h, ok := s.write(f, off, next)
		if !ok || h.Seq > r.Last {
			off += Block
			continue
		}
		if h.Seq > next {
			s.hole("writes %d to %d of %s", next, h.Seq-1, f.name)
		}
		s.take(f, off, &h, false)
		off, next = off+h.Bytes(), h.Seq+1
	}
	if next <= r.Last {
		s.hole("writes %d to %d of %s", next, r.Last, f.name)
	}
	return nil
}

func (s *scanner) hole(format string, args ...any) {
	s.out.Holes = append(s.out.Holes, fmt.Sprintf(format, args...))
}

// note keeps that a later version of this program has written here.
func (s *scanner) note(err error) {
	if err != nil && !errors.Is(err, errs.ErrCorrupt) && s.newer == nil {
		s.newer = err
	}
}

// write decodes the log write at off if it is one of f's from sequence next on.
func (s *scanner) write(f *file, off int64, next uint64) (Header, bool) {
	h, err := DecodeHeader(f.name, s.raw[off:], s.l.o.Incarnation, s.l.o.FileBytes-off)
	s.note(err)
	return h, err == nil && h.Kind != Blank && h.FileSeq == f.seq && h.Seq >= next
}

// open scans the file that was being written. A log write that is not whole with
// no later one after it was never synced: the log ends before it. One with a
// later one after it was synced, since each is issued after the sync of the one
// before: its records are lost, and every stream is suspect until a later record
// or table shows that it lost nothing.
func (s *scanner) open(f *file) error {
	if err := s.load(f); err != nil {
		return err
	}
	off, next := int64(0), f.first
	for off < s.l.o.FileBytes {
		h, ok := s.write(f, off, next)
		if ok && h.Seq == next && (s.whole(f, off, &h) || s.later(f, off+h.Bytes(), next+1)) {
			s.take(f, off, &h, true)
			off, next = off+h.Bytes(), next+1
			continue
		}
		if ok && h.Seq == next {
			s.out.TornBytes = h.Bytes()
			break
		}
		found := s.find(f, off+Block, next+1)
		if found < 0 {
			break
		}
		h, _ = s.write(f, found, next+1)
		s.hole("writes %d to %d of %s", next, h.Seq-1, f.name)
		s.suspectAll()
		off, next = found, h.Seq
	}
	f.last = next - 1
	s.l.cur, s.l.off = f, off
	s.l.seq, s.l.fileSeq = next-1, f.seq
	return nil
}

func (s *scanner) suspectAll() {
	for _, st := range s.out.Streams {
		st.suspect = true
	}
}

// later tells whether there is a log write of f from sequence next on at or after off.
func (s *scanner) later(f *file, off int64, next uint64) bool { return s.find(f, off, next) >= 0 }

func (s *scanner) find(f *file, off int64, next uint64) int64 {
	for ; off < s.l.o.FileBytes; off += Block {
		if _, ok := s.write(f, off, next); ok {
			return off
		}
	}
	return -1
}

// whole tells whether every batch and table of the log write is good.
func (s *scanner) whole(f *file, off int64, h *Header) bool {
	good := true
	s.batches(f, off, h, func(b core.Batch, _ *storeproto.Header, ok bool) { good = good && ok })
	return good
}

// take takes in one log write. Batches that fail their sums are left out; they
// show as gaps.
func (s *scanner) take(f *file, off int64, h *Header, open bool) {
	switch h.Kind {
	case Head, Seal:
		t, err := DecodeTable(f.name, s.raw[off+HeaderSize:off+int64(h.HeadBytes)])
		if err == nil && open && off > 0 {
			s.table(&t, false)
		}
		return
	case Blank:
		return
	}
	s.batches(f, off, h, func(b core.Batch, ah *storeproto.Header, ok bool) {
		st := s.out.Streams[ah.Stream]
		if st == nil || h.Seq < st.from.Since {
			return
		}
		if h.Kind == Appends && open {
			if b.First > st.Tail || b.First == st.from.Base {
				st.suspect = false // what is missing before it shows as a gap
			}
			st.Released = max(st.Released, ah.Released)
		}
		st.Tail = max(st.Tail, b.Last())
		if ok {
			st.Batches = append(st.Batches, b)
		} else if h.Kind == Appends {
			s.hole("batch %d of %v in %s", b.First, ah.Stream, f.name)
		}
	})
}

// batches goes through a log write whose head is good.
func (s *scanner) batches(f *file, off int64, h *Header, do func(b core.Batch, ah *storeproto.Header, ok bool)) {
	if h.Kind != Appends && h.Kind != Carried {
		return
	}
	head := s.raw[off : off+int64(h.HeadBytes)]
	payload := off + roundUp(int64(h.HeadBytes))
	end := off + h.Bytes()
	at := HeaderSize
	for range h.Entries {
		ah, err := storeproto.DecodeHeader(f.name, head[at:])
		if err != nil || at+storeproto.HeaderSize+ah.MetaLen+4*ah.Blocks > len(head) || payload+int64(ah.Blocks)*Block > end {
			return // the head's sum was right: a later format, or a fault of ours; gaps tell
		}
		b := core.Batch{First: ah.First, Epoch: ah.BatchEpoch, Count: ah.Count, Sum: ah.Sum,
			Bytes: uint32(storeproto.HeaderSize + ah.BodySize()),
			Pos:   core.Position{File: f.slot, Head: uint32(off) + uint32(at), Payload: uint32(payload)}}
		at += storeproto.HeaderSize + ah.MetaLen
		ok := true
		for i := range ah.Blocks {
			want := storeproto.DecodeSums(nil, head[at+4*i:at+4*i+4])[0]
			ok = ok && codec.CRC(s.raw[payload+int64(i)*Block:][:Block]) == want
		}
		at += 4 * ah.Blocks
		payload += int64(ah.Blocks) * Block
		do(b, &ah, ok)
	}
}

// stray looks for a file that was headed after the newest one and lost its head
// since: its first block fails its check, but writes of a higher file sequence
// are in it. Their head was synced, so it is a lost record.
func (s *scanner) stray(newest uint64) error {
	for _, f := range s.l.mu.files {
		if f == nil || f.seq != 0 {
			continue
		}
		b := buf.Get(Block)
		_, err := f.f.ReadAt(b.Bytes(), 0)
		if err == nil {
			_, err = DecodeHeader(f.name, b.Bytes(), s.l.o.Incarnation, s.l.o.FileBytes)
		}
		b.Release()
		if err == nil {
			continue // blank
		}
		if !errors.Is(err, errs.ErrCorrupt) {
			return err
		}
		if err := s.load(f); err != nil {
			return err
		}
		if err := s.adoptStray(f, newest); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) adoptStray(f *file, newest uint64) error {
	for off := int64(Block); off < s.l.o.FileBytes; off += Block {
		h, err := DecodeHeader(f.name, s.raw[off:], s.l.o.Incarnation, s.l.o.FileBytes-off)
		if err != nil || h.FileSeq <= newest || h.Kind == Blank {
			continue
		}
		s.hole("head of %s", f.name)
		s.suspectAll()
		f.seq, f.first = h.FileSeq, h.Seq-1
		return s.open(f)
	}
	return nil
}
