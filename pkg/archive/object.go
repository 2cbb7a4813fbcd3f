package archive

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/id"
	"ashlar.dev/pkg/segment"
)

// Limits of objects and their parts.
const (
	ObjectMax  = 64 << 20 // bytes
	GroupSlots = 16       // that are compressed, sealed and read together

	partMax = id.SlotsMax*block.Size + headMax + id.SlotsMax/GroupSlots*tagSize
	headMax = partFixed + id.SlotsMax*tableSlot + id.SlotsMax/GroupSlots*tableGroup + 1<<12
)

const (
	objectMagic   = 0x4f485341 // "ASHO"
	objectVersion = 1
	objectFixed   = 32

	partMagic  = 0x50485341 // "ASHP"
	partFixed  = 24
	tableSlot  = 2 + 8 + 4
	tableGroup = 4
)

// Slot is one archived slot: what it holds, and the CRC-32C of its 4,096 bytes.
type Slot struct {
	Number uint16
	Entry  segment.Entry
	Sum    uint32
}

// Builder makes one object after the other, part by part, in the same memory.
type Builder struct {
	secret *Secret
	sealer *sealer
	object Object
	body   []byte
	parts  []Segment
	table  []byte
	small  []byte // a group before it is sealed

	// The part that is added: its slots, and the groups with what the table has of them.
	slots   []Slot
	packed  []byte
	lengths []uint32
}

// NewBuilder begins an object that will lie at key.
func NewBuilder(key string, s *Secret) *Builder {
	b := &Builder{secret: s}
	b.Begin(key)
	return b
}

// Begin begins another object. The bytes that Finish gave are written over, its parts are not.
func (b *Builder) Begin(key string) {
	var salt Salt
	if b.secret != nil {
		rand.Read(salt[:]) // never fails
	}
	b.begin(key, salt)
}

func (b *Builder) begin(key string, salt Salt) {
	b.slots, b.lengths, b.packed = b.slots[:0], b.lengths[:0], b.packed[:0]
	b.sealer, b.object, b.parts = b.secret.of(salt, "object"), Object{Key: key, Salt: salt}, nil
	le := binary.LittleEndian
	flags := uint16(0)
	if b.secret != nil {
		flags = flagSealed
	}
	b.body = le.AppendUint16(le.AppendUint16(le.AppendUint32(b.body[:0], objectMagic), objectVersion), flags)
	key8 := b.secret.ID()
	b.body = append(append(b.body, key8[:]...), salt[:]...)
}

// group appends a group that is sealed under nonce to b.packed, and gives its length and flag as a table has them.
func (b *Builder) group(plain []byte, nonce uint64) uint32 {
	start, enough := len(b.packed), len(plain)-len(plain)/16
	if b.sealer == nil {
		b.packed = deflate(b.packed, plain)
		if len(b.packed)-start < enough {
			return uint32(len(b.packed)-start)<<1 | 1
		}
		b.packed = append(b.packed[:start], plain...)
		return uint32(len(plain)) << 1
	}
	flag := uint32(1)
	if b.small = deflate(b.small[:0], plain); len(b.small) >= enough {
		b.small, flag = append(b.small[:0], plain...), 0
	}
	b.packed = b.sealer.seal(b.packed, b.small, nonce, nil)
	return uint32(len(b.packed)-start)<<1 | flag
}

// Add appends the part of a segment: slots in the order of their numbers, and data with their
// blocks in that order. It panics if they do not fit each other: the caller has checked
// the blocks against what the stores say.
func (b *Builder) Add(s id.Segment, slots []Slot, data []byte) {
	b.AddSlots(slots, data)
	b.EndPart(s)
}

// AddSlots is Add for a piece of a segment, one after the other and all but the last of whole groups; then EndPart must be called.
func (b *Builder) AddSlots(slots []Slot, data []byte) {
	if len(slots) == 0 || len(b.slots)+len(slots) > id.SlotsMax || len(data) != len(slots)*block.Size || len(b.slots)%GroupSlots != 0 {
		panic("archive: a piece of a part whose slots and blocks do not fit")
	}
	// The table is compressed, so how long it is, and with it where the groups lie, is known only
	// afterwards; but a group is sealed by where it lies. So places are counted from a
	// number of its own: groups are sealed under offset of the part + 1 + number.
	b.slots = append(b.slots, slots...)
	for len(data) > 0 {
		n := min(len(data), GroupSlots*block.Size)
		b.lengths = append(b.lengths, b.group(data[:n], uint64(len(b.body))+1+uint64(len(b.lengths))))
		data = data[n:]
	}
}

// EndPart ends the part of a segment whose slots were added.
func (b *Builder) EndPart(s id.Segment) {
	if len(b.slots) == 0 || !s.Valid() {
		panic("archive: a part without slots or segment")
	}
	le, at := binary.LittleEndian, uint64(len(b.body))
	b.table = b.table[:0]
	for _, x := range b.slots {
		b.table = le.AppendUint16(b.table, x.Number)
	}
	for _, x := range b.slots {
		b.table = le.AppendUint64(b.table, uint64(x.Entry))
	}
	for _, x := range b.slots {
		b.table = le.AppendUint32(b.table, x.Sum)
	}
	for _, n := range b.lengths {
		b.table = le.AppendUint32(b.table, n)
	}
	head := le.AppendUint64(le.AppendUint32(nil, partMagic), uint64(s))
	head = le.AppendUint16(head, uint16(len(b.slots)))
	head = le.AppendUint16(head, 0)
	table := encoder().EncodeAll(b.table, nil)
	head = le.AppendUint32(head, uint32(len(table)+b.sealer.overhead()))
	stored := b.sealer.seal(nil, table, at, head)
	head = le.AppendUint32(head, codec.CRCMore(codec.CRC(head), stored))
	b.body = slices.Grow(b.body, len(head)+len(stored)+len(b.packed))
	b.body = append(append(append(b.body, head...), stored...), b.packed...)
	b.parts = append(b.parts, Segment{ID: s, Offset: uint32(at), Length: uint32(uint64(len(b.body)) - at),
		Head: uint32(len(head) + len(stored)), Slots: uint16(len(b.slots))})
	b.slots, b.lengths, b.packed = b.slots[:0], b.lengths[:0], b.packed[:0]
}

// Finish gives the object's bytes, good until the next Begin, what a manifest says of it, and its parts, whose Object is 0.
func (b *Builder) Finish() (body []byte, o Object, parts []Segment) {
	b.object.Size, b.object.SHA = uint64(len(b.body)), sha256.Sum256(b.body)
	return b.body, b.object, b.parts
}

// Part is the head of a segment's part: what is in it, and where.
type Part struct {
	Segment id.Segment
	Slots   []Slot

	offset uint64 // of the part in its object
	groups []group
}

type group struct {
	offset uint64 // in the object
	length uint32
	packed bool
}

// Groups is how many groups there are.
func (p *Part) Groups() int { return len(p.groups) }

// Find gives the place of a slot in Slots.
func (p *Part) Find(slot uint16) (int, bool) {
	lo, hi := 0, len(p.Slots)
	for lo < hi {
		if mid := (lo + hi) / 2; p.Slots[mid].Number < slot {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(p.Slots) && p.Slots[lo].Number == slot
}

// decodePart reads the head of a part that lies at offset of an object. The result shares no memory with head.
func decodePart(place string, head []byte, offset uint64, s *sealer) (*Part, error) {
	bad := func(what string, want, got uint64) error {
		return &errs.Corrupt{Place: place, Offset: int64(offset), What: what, Want: want, Got: got}
	}
	le := binary.LittleEndian
	if len(head) < partFixed || le.Uint32(head) != partMagic {
		return nil, bad("beginning of a part", partMagic, uint64(len(head)))
	}
	p := &Part{Segment: id.Segment(le.Uint64(head[4:])), offset: offset}
	n, stored := int(le.Uint16(head[12:])), int(le.Uint32(head[16:]))
	if stored != len(head)-partFixed {
		return nil, bad("bytes of a part's table", uint64(len(head)-partFixed), uint64(stored))
	}
	if want, got := le.Uint32(head[20:]), codec.CRCMore(codec.CRC(head[:20]), head[partFixed:]); want != got {
		return nil, bad("checksum of a part's head", uint64(want), uint64(got))
	}
	if !p.Segment.Valid() || n == 0 || n > id.SlotsMax || le.Uint16(head[14:]) != 0 {
		return nil, bad("slots of a part", id.SlotsMax, uint64(n))
	}
	packed, err := s.open(place, head[partFixed:], offset, head[:20])
	if err != nil {
		return nil, err
	}
	groups := (n + GroupSlots - 1) / GroupSlots
	table, err := inflate(place, packed, n*tableSlot+groups*tableGroup)
	if err != nil {
		return nil, err
	}
	return p, p.readTable(bad, table, n, groups, offset+uint64(len(head)), s.overhead())
}

func (p *Part) readTable(bad func(string, uint64, uint64) error, table []byte, n, groups int, at uint64, overhead int) error {
	le := binary.LittleEndian
	p.Slots, p.groups = make([]Slot, n), make([]group, groups)
	for i := range p.Slots {
		x := &p.Slots[i]
		x.Number, x.Entry = le.Uint16(table[2*i:]), segment.Entry(le.Uint64(table[2*n+8*i:]))
		x.Sum = le.Uint32(table[10*n+4*i:])
		if x.Number >= id.SlotsMax || i > 0 && x.Number <= p.Slots[i-1].Number {
			return bad("slot after another", id.SlotsMax, uint64(x.Number))
		}
		if k := x.Entry.Kind(); !x.Entry.Valid() || k != segment.Data && k != segment.MapPage {
			return bad("entry of a slot", uint64(segment.Data), uint64(x.Entry))
		}
	}
	for g := range p.groups {
		x := le.Uint32(table[14*n+4*g:])
		p.groups[g] = group{offset: at, length: x >> 1, packed: x&1 == 1}
		at += uint64(x >> 1)
		if full := p.groupBlocks(g)*block.Size + overhead; x>>1 == 0 || int(x>>1) > full || x&1 == 0 && int(x>>1) != full {
			return bad("bytes of a group", uint64(full), uint64(x>>1))
		}
	}
	return nil
}

// groupBlocks is how many slots a group has.
func (p *Part) groupBlocks(g int) int { return min(GroupSlots, len(p.Slots)-g*GroupSlots) }

// openGroup gives the blocks of a group from its stored bytes, checked.
func (p *Part) openGroup(place string, g int, stored []byte, s *sealer) ([]byte, error) {
	plain, err := s.open(place, stored, p.offset+1+uint64(g), nil)
	if err != nil {
		return nil, err
	}
	want := p.groupBlocks(g) * block.Size
	if p.groups[g].packed {
		if plain, err = inflate(place, plain, want); err != nil {
			return nil, err
		}
	} else if len(plain) != want {
		return nil, &errs.Corrupt{Place: place, Offset: int64(p.groups[g].offset), What: "bytes of a group", Want: uint64(want), Got: uint64(len(plain))}
	}
	for i := range p.groupBlocks(g) {
		x := p.Slots[g*GroupSlots+i]
		if got := codec.CRC(plain[i*block.Size:][:block.Size]); got != x.Sum {
			return nil, &errs.Corrupt{Place: fmt.Sprintf("%s, slot %d of segment %s", place, x.Number, p.Segment), Offset: int64(p.groups[g].offset),
				What: "checksum of a block", Want: uint64(x.Sum), Got: uint64(got)}
		}
	}
	return plain, nil
}
