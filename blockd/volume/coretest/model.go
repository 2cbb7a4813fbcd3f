package coretest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Cell is the unit in which the model keeps a volume: a block has eight cells, so
// that sub-block writes show.
const Cell = 512

// Model knows what reads may return: every cell is a register. A write has a tag,
// and its place in time is anywhere between its beginning and its end; one whose
// outcome is unknown may or may not have happened, until Settle says when it can
// no longer happen.
type Model struct {
	blocks  map[uint64]*[8]cell // those that were ever written to
	zero    *Write              // what all begin with
	time    uint64
	unknown []*Write
}

// cell is one register.
type cell struct {
	writes []held
	seen   *Write // the last one a read has seen
	seenAt uint64
}

// held is a write that a cell may have.
type held struct {
	*Write
	dead uint64 // overwritten for sure at that time: a read saw what came later; 0: not
}

// Write is one write, or one that zeroes (Tag 0).
type Write struct {
	Tag         uint64
	begun, done uint64
	definite    bool
}

// NewModel makes a model of a volume of zeros.
func NewModel() *Model {
	m := &Model{blocks: make(map[uint64]*[8]cell)}
	m.zero = &Write{done: m.tick(), definite: true}
	return m
}

// NewModelAfter makes a model that begins with what cells were read as; its tags are above all those
// that were given out before time.
func NewModelAfter(time uint64, begins map[uint64]uint64) *Model {
	m := NewModel()
	m.time = max(m.time, time)
	m.inherit(begins)
	return m
}

// Blocks are those that were ever written to, in order.
func (m *Model) Blocks() []uint64 { return slices.Sorted(maps.Keys(m.blocks)) }

// cell gives a cell; nil: it was never written to.
func (m *Model) cell(i uint64) *cell {
	if b := m.blocks[i/8]; b != nil {
		return &b[i%8]
	}
	return nil
}

func (m *Model) tick() uint64 { m.time++; return m.time }

// Begin notes a write of n bytes at off, both multiples of Cell; zero: it zeroes.
func (m *Model) Begin(off, n uint64, zero bool) *Write {
	w := &Write{begun: m.tick()}
	if !zero {
		w.Tag = w.begun
	}
	for i := off / Cell; i < (off+n)/Cell; i++ {
		b := m.blocks[i/8]
		if b == nil {
			b = new([8]cell)
			for j := range b {
				b[j].writes = []held{{Write: m.zero}}
			}
			m.blocks[i/8] = b
		}
		b[i%8].writes = append(b[i%8].writes, held{Write: w})
	}
	return w
}

// beginAll notes that everything is zeroed.
func (m *Model) beginAll() *Write {
	w := &Write{begun: m.tick()}
	for _, b := range m.blocks {
		for i := range b {
			b[i].writes = append(b[i].writes, held{Write: w})
		}
	}
	return w
}

// Fill writes the content of w's cells from byte from of w on.
func (w *Write) Fill(dst []byte) {
	for i := 0; i+8 <= len(dst); i += 8 {
		binary.LittleEndian.PutUint64(dst[i:], w.Tag)
	}
}

// End says that a write was acknowledged, or that its outcome is unknown.
func (m *Model) End(w *Write, acknowledged bool) {
	if acknowledged {
		w.done, w.definite = m.tick(), true
		return
	}
	m.unknown = append(m.unknown, w)
}

// Settle says that what has an unknown outcome happens now or never: a new owner has opened the volume.
func (m *Model) Settle() {
	t := m.tick()
	for _, w := range m.unknown {
		w.done = t
	}
	m.unknown = nil
}

// Touched tells whether a range was ever written to.
func (m *Model) Touched(off, n uint64) bool {
	for i := off / Cell / 8; i < (off+n)/Cell/8; i++ {
		if m.blocks[i] != nil {
			return true
		}
	}
	return false
}

// Then tells whether a cell can have been tag at some moment between two notes of the beginning of
// a read; ended 0: or until now.
func (m *Model) Then(i, tag, begun, ended uint64) error { return m.then(i, tag, begun, ended) }

// Reading notes the beginning of a read.
func (m *Model) Reading() uint64 { return m.tick() }

// Read checks the bytes of a read at off that began at begun and ends now.
func (m *Model) Read(begun, off uint64, data []byte) error {
	ended := m.tick()
	for i := 0; i < len(data); i += Cell {
		c := off/Cell + uint64(i/Cell)
		tag := binary.LittleEndian.Uint64(data[i:])
		if b := data[i : i+Cell]; !bytes.Equal(b[8:], b[:Cell-8]) {
			return fmt.Errorf("cell %d (block %d) is torn: %x", c, c/8, b)
		}
		if err := m.see(c, tag, begun, ended); err != nil {
			return err
		}
	}
	return nil
}

// status checks what was said of one block.
func (m *Model) status(begun, l uint64, hole bool) error {
	if m.blocks[l] == nil {
		if !hole {
			return fmt.Errorf("block %d was never written and is said to have bytes", l)
		}
		return nil
	}
	for i := uint64(0); hole && i < 8; i++ {
		if err := m.see(l*8+i, 0, begun, m.tick()); err != nil {
			return fmt.Errorf("said to be a hole: %w", err)
		}
	}
	return nil
}

// see checks one cell of a read.
func (m *Model) see(i, tag, begun, ended uint64) error {
	c := m.cell(i)
	if c == nil {
		if tag != 0 {
			return fmt.Errorf("cell %d (block %d) reads as %d: nobody ever wrote there", i, i/8, tag)
		}
		return nil
	}
	var w *Write
	candidates, why := 0, errNobody
	for j := range c.writes {
		x := &c.writes[j]
		if x.Tag != tag {
			continue
		}
		if err := c.refuses(x, begun); err != nil {
			why = err
			continue
		}
		w = x.Write
		candidates++
	}
	if candidates == 0 {
		return fmt.Errorf("cell %d (block %d) reads as %d: %w", i, i/8, tag, why)
	}
	if candidates == 1 {
		c.saw(w, begun, ended)
	}
	return nil
}

var (
	errNobody  = errors.New("nobody wrote it here")
	errSeen    = errors.New("an earlier read saw what came after it")
	errWritten = errors.New("it was overwritten before the read began")
)

// refuses says why a read that began at begun cannot return w; nil: it can.
func (c *cell) refuses(w *held, begun uint64) error {
	if w.dead > 0 && w.dead < begun {
		return errSeen
	}
	if w.done == 0 {
		return nil
	}
	for i := range c.writes {
		if x := c.writes[i].Write; x.definite && x.begun > w.done && x.done < begun {
			return errWritten
		}
	}
	return nil
}

// saw notes that a read returned w: what was certainly before w is gone for reads that begin from now on.
func (c *cell) saw(w *Write, begun, ended uint64) {
	for i := range c.writes {
		x := &c.writes[i]
		before := x.done != 0 && x.done < w.begun || x.Write == c.seen && c.seenAt < begun
		if before && x.Write != w && x.dead == 0 {
			x.dead = ended
		}
	}
	if c.seenAt < begun || c.seen == nil {
		c.seen, c.seenAt = w, ended
	}
}
